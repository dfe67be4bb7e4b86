//! Values as written, before anybody knows what they should be: a TOML document's, or the text of
//! an environment variable, which may still become a number, a list or a flag.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::problem::Wrong;

/// Named values.
pub(super) type Table = BTreeMap<String, Value>;

/// The longest piece of a value that a problem shows, in characters.
const LONGEST_SHOWN: usize = 60;

/// One value as written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    /// Wider than any number we take, so that a range is checked instead of an overflow.
    Integer(i128),
    Float(f64),
    Flag(bool),
    /// A date or time, as text: no setting is one.
    Date(String),
    List(Vec<Value>),
    Table(Table),
    /// From an environment variable: text that may be written for any kind but a table.
    Variable(String),
}

impl Value {
    /// What it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a fraction",
            Self::Flag(_) => "true or false",
            Self::Date(_) => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Variable(_) => "a text",
        }
    }

    /// As a problem shows it.
    pub(super) fn shown(&self) -> String {
        let mut text = match self {
            Self::Text(text) | Self::Variable(text) => {
                let short: String = text.chars().take(LONGEST_SHOWN).collect();
                format!("{short:?}")
            }
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Date(date) => date.clone(),
            Self::List(values) => {
                let values: Vec<String> =
                    values.iter().take(LONGEST_SHOWN).map(Self::shown).collect();
                format!("[{}]", values.join(", "))
            }
            // A table may hold anything, secrets included.
            Self::Table(_) => "{…}".to_owned(),
        };
        if let Some((cut, _)) = text.char_indices().nth(LONGEST_SHOWN) {
            text.truncate(cut);
            text.push('…');
        }
        text
    }

    /// As text.
    pub(super) fn text(&self) -> Result<&str, Wrong> {
        match self {
            Self::Text(text) | Self::Variable(text) => Ok(text),
            Self::Integer(_)
            | Self::Float(_)
            | Self::Flag(_)
            | Self::Date(_)
            | Self::List(_)
            | Self::Table(_) => Err(self.unlike("a string", "write it in quotes")),
        }
    }

    /// As the text of a quantity; a number is one without a unit.
    pub(super) fn quantity(&self) -> Result<Cow<'_, str>, Wrong> {
        match self {
            Self::Integer(number) => Ok(number.to_string().into()),
            Self::Text(_)
            | Self::Float(_)
            | Self::Flag(_)
            | Self::Date(_)
            | Self::List(_)
            | Self::Table(_)
            | Self::Variable(_) => self.text().map(Cow::Borrowed),
        }
    }

    /// As a whole number.
    pub(super) fn integer(&self) -> Result<i128, Wrong> {
        const MEND: &str = "write digits without quotes";
        match self {
            Self::Integer(number) => Ok(*number),
            Self::Variable(text) => text
                .trim()
                .replace('_', "")
                .parse()
                .map_err(|_| self.unlike("a whole number", "write digits only")),
            Self::Text(_)
            | Self::Float(_)
            | Self::Flag(_)
            | Self::Date(_)
            | Self::List(_)
            | Self::Table(_) => Err(self.unlike("a whole number", MEND)),
        }
    }

    /// As a number with a fraction.
    pub(super) fn float(&self) -> Result<f64, Wrong> {
        const MEND: &str = "write a number such as 0.2";
        match self {
            Self::Float(number) => Ok(*number),
            Self::Integer(0) => Ok(0.0),
            Self::Integer(1) => Ok(1.0),
            Self::Variable(text) => text
                .trim()
                .parse()
                .map_err(|_| self.unlike("a number", MEND)),
            Self::Text(_)
            | Self::Integer(_)
            | Self::Flag(_)
            | Self::Date(_)
            | Self::List(_)
            | Self::Table(_) => Err(self.unlike("a number from 0 to 1", MEND)),
        }
    }

    /// As yes or no.
    pub(super) fn flag(&self) -> Result<bool, Wrong> {
        const MEND: &str = "write true or false";
        match self {
            Self::Flag(flag) => Ok(*flag),
            Self::Variable(text) => text
                .trim()
                .parse()
                .map_err(|_| self.unlike("true or false", MEND)),
            Self::Text(_)
            | Self::Integer(_)
            | Self::Float(_)
            | Self::Date(_)
            | Self::List(_)
            | Self::Table(_) => Err(self.unlike("true or false", MEND)),
        }
    }

    /// As a list of whole numbers; a variable's are separated by commas.
    pub(super) fn integers(&self) -> Result<Vec<i128>, Wrong> {
        match self {
            Self::List(values) => values.iter().map(Self::integer).collect(),
            Self::Variable(text) => text
                .split(',')
                .map(|part| Self::Variable(part.to_owned()).integer())
                .collect(),
            Self::Text(_)
            | Self::Integer(_)
            | Self::Float(_)
            | Self::Flag(_)
            | Self::Date(_)
            | Self::Table(_) => Err(self.unlike("a list of numbers", "write [0, 75]")),
        }
    }

    /// As a list of strings; a variable's are separated by commas.
    pub(super) fn texts(&self) -> Result<Vec<String>, Wrong> {
        const MEND: &str = r#"write ["one", "two"]"#;
        match self {
            Self::List(values) => values
                .iter()
                .map(|value| match value {
                    Self::Text(text) => Ok(text.clone()),
                    Self::Integer(_)
                    | Self::Float(_)
                    | Self::Flag(_)
                    | Self::Date(_)
                    | Self::List(_)
                    | Self::Table(_)
                    | Self::Variable(_) => Err(Wrong::new(
                        format!("{} stands in a list of strings", value.kind()),
                        MEND,
                    )),
                })
                .collect(),
            Self::Variable(text) => {
                Ok(text.split(',').map(|part| part.trim().to_owned()).collect())
            }
            Self::Text(_)
            | Self::Integer(_)
            | Self::Float(_)
            | Self::Flag(_)
            | Self::Date(_)
            | Self::Table(_) => Err(self.unlike("a list of strings", MEND)),
        }
    }

    /// As JSON; a variable's text is a number or a flag if it reads as one.
    pub(super) fn json(&self) -> Result<serde_json::Value, Wrong> {
        Ok(match self {
            Self::Text(text) | Self::Date(text) => text.clone().into(),
            Self::Integer(number) => i64::try_from(*number)
                .map_err(|_| Wrong::new("too large a number", "write it in quotes"))?
                .into(),
            Self::Float(number) => serde_json::Number::from_f64(*number)
                .ok_or_else(|| Wrong::new("no finite number", "write it in quotes"))?
                .into(),
            Self::Flag(flag) => (*flag).into(),
            Self::List(values) => values
                .iter()
                .map(Self::json)
                .collect::<Result<Vec<_>, _>>()?
                .into(),
            Self::Table(table) => serde_json::Value::Object(
                table
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), value.json()?)))
                    .collect::<Result<_, Wrong>>()?,
            ),
            Self::Variable(text) => match (
                text.parse::<bool>(),
                text.parse::<i64>(),
                text.parse::<f64>(),
            ) {
                (Ok(flag), _, _) => flag.into(),
                (_, Ok(number), _) => number.into(),
                (_, _, Ok(number)) if number.is_finite() => number.into(),
                _ => text.clone().into(),
            },
        })
    }

    /// That it is another kind than `expected`.
    pub(super) fn unlike(&self, expected: &str, mend: &str) -> Wrong {
        match self {
            Self::Variable(_) => Wrong::new(format!("not {expected}"), mend),
            Self::Text(_)
            | Self::Integer(_)
            | Self::Float(_)
            | Self::Flag(_)
            | Self::Date(_)
            | Self::List(_)
            | Self::Table(_) => {
                Wrong::new(format!("is {} instead of {expected}", self.kind()), mend)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_shown_shortened() {
        let shown = Value::Text("x".repeat(1000)).shown();
        assert!(shown.chars().count() <= LONGEST_SHOWN + 1, "{shown}");
    }

    #[test]
    fn a_table_is_never_shown() {
        let table = Value::Table(Table::from([(
            "password".to_owned(),
            Value::Text("hunter2".to_owned()),
        )]));
        assert_eq!(table.shown(), "{…}");
        assert_eq!(Value::List(vec![table]).shown(), "[{…}]");
    }

    #[test]
    fn a_variable_reads_as_whatever_is_wanted() {
        let variable = |text: &str| Value::Variable(text.to_owned());
        assert_eq!(variable("8").integer(), Ok(8));
        assert_eq!(
            variable("a, b").texts(),
            Ok(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(variable("true").json(), Ok(true.into()));
        assert_eq!(variable("1.5").json(), Ok(1.5.into()));
        assert_eq!(variable("nan").json(), Ok("nan".into()));
    }
}
