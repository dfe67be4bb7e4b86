//! A command's arguments, filled with a task's; pure.

use std::ffi::OsString;

use serde_json::{Map, Value};

use crate::config::{Argument, Command, Piece};

/// The longest argument, in bytes: Linux takes 128 KiB.
const LONGEST: usize = 64 * 1024;

/// Why a task cannot have the command that it asks for. Another attempt would fail the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("fill in {{{name}}}: the task has no named argument {name:?}")]
    Missing { name: String },
    #[error(
        "fill in {{{name}}}: the task's argument is {kind}, not a text, a number, true or false"
    )]
    NoText { name: String, kind: &'static str },
    #[error(
        "fill in {{{name}}}: the task's argument {what}, which only a placeholder {{{name}:any}} takes"
    )]
    Option { name: String, what: &'static str },
    #[error("fill in {{{name}}}: the task's argument has a NUL character")]
    Nul { name: String },
    #[error("fill in an argument: it would have more than {LONGEST} bytes")]
    TooLong,
    #[error("tell the command its task's id: it has a NUL character, or more than {LONGEST} bytes")]
    Id,
}

/// The program and its arguments, each placeholder filled within its argument.
pub(super) fn fill(command: &Command, named: &Map<String, Value>) -> Result<Vec<OsString>, Unfit> {
    let Command { program, arguments } = command;
    let mut filled = vec![program.into()];
    for argument in arguments {
        filled.push(fill_one(argument, named)?.into());
    }
    Ok(filled)
}

/// A text that can be a variable's value.
pub(super) fn fit_id(id: &str) -> Result<(), Unfit> {
    if id.contains('\0') || id.len() > LONGEST {
        Err(Unfit::Id)
    } else {
        Ok(())
    }
}

fn fill_one(argument: &Argument, named: &Map<String, Value>) -> Result<String, Unfit> {
    let mut text = String::new();
    for piece in &argument.pieces {
        match piece {
            Piece::Text(fixed) => text.push_str(fixed),
            Piece::Value { name, any } => text.push_str(&value(name, *any, named)?),
        }
        if text.len() > LONGEST {
            return Err(Unfit::TooLong);
        }
    }
    Ok(text)
}

fn value(name: &str, any: bool, named: &Map<String, Value>) -> Result<String, Unfit> {
    let name = || name.to_owned();
    let no_text = |kind| {
        let name = name();
        Err(Unfit::NoText { name, kind })
    };
    let text = match named.get(&name()) {
        None => return Err(Unfit::Missing { name: name() }),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Null) => return no_text("null"),
        Some(Value::Array(_)) => return no_text("a list"),
        Some(Value::Object(_)) => return no_text("an object"),
    };
    let option = |what| {
        let name = name();
        Err(Unfit::Option { name, what })
    };
    if text.contains('\0') {
        Err(Unfit::Nul { name: name() })
    } else if !any && text.is_empty() {
        option("is empty")
    } else if !any && text.starts_with('-') {
        option("begins with \"-\"")
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn argument(pieces: &[Piece]) -> Command {
        let path = std::path::Path::new("t");
        let written: String = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Value { name, any } => {
                    format!("{{{name}{}}}", if *any { ":any" } else { "" })
                }
            })
            .collect();
        let folder = crate::plugin_host::folder::Folder::make().unwrap();
        let file = folder.path().join(path);
        let text = format!("[exec.x]\ncommand = ['p', {}]\n", json!(written));
        std::fs::write(&file, text).unwrap();
        let config = crate::config::Config::load(Some(&file), [], &[]).unwrap();
        config.exec["x"].command.clone()
    }

    fn placeholder(any: bool) -> Piece {
        Piece::Value {
            name: "a".into(),
            any,
        }
    }

    fn filled(pieces: &[Piece], value: Value) -> Result<Vec<OsString>, Unfit> {
        let mut named = Map::new();
        named.insert("a".into(), value);
        fill(&argument(pieces), &named)
    }

    #[test]
    fn a_value_fills_one_argument_whatever_is_in_it() {
        for text in [
            "a b", "\"", "'", "$(id)", "`id`", ";id", "a\nb", "{a}", "*", "é",
        ] {
            let want: Vec<OsString> = vec!["p".into(), text.into()];
            assert_eq!(filled(&[placeholder(false)], json!(text)), Ok(want));
        }
        let around = [
            Piece::Text("--suite=".into()),
            placeholder(false),
            Piece::Text("/x".into()),
        ];
        assert_eq!(
            filled(&around, json!("a b")).unwrap(),
            ["p", "--suite=a b/x"]
        );
        assert_eq!(filled(&around, json!(7)).unwrap(), ["p", "--suite=7/x"]);
    }

    #[test]
    fn what_is_no_plain_value_is_refused_by_name() {
        let refused = |value| {
            filled(&[placeholder(false)], value)
                .unwrap_err()
                .to_string()
        };
        assert!(refused(json!("-rf")).contains("begins with \"-\""));
        assert!(refused(json!(-1)).contains("begins with"));
        assert!(refused(json!("")).contains("is empty"));
        assert!(refused(json!("a\0b")).contains("NUL"));
        assert!(refused(json!(null)).contains("null"));
        assert!(refused(json!(["a"])).contains("a list"));
        assert!(refused(json!({"$bytes": "YQ=="})).contains("an object"));
        assert!(refused(json!("a".repeat(LONGEST + 1))).contains("bytes"));
        let missing = fill(&argument(&[placeholder(true)]), &Map::new()).unwrap_err();
        assert!(missing.to_string().contains("no named argument \"a\""));
        // A NUL is nobody's to allow.
        assert!(filled(&[placeholder(true)], json!("\0")).is_err());
        assert_eq!(
            filled(&[placeholder(true)], json!("-rf")).unwrap(),
            ["p", "-rf"]
        );
        assert_eq!(filled(&[placeholder(true)], json!("")).unwrap(), ["p", ""]);
    }

    proptest! {
        #[test]
        fn there_are_always_as_many_arguments_as_are_written(text in "\\PC{0,40}|[ \"'$();\n{}-]{0,20}") {
            if let Ok(filled) = filled(&[placeholder(false)], json!(text)) {
                prop_assert_eq!(filled, [OsString::from("p"), OsString::from(text)]);
            }
        }
    }
}
