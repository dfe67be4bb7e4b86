//! Passwords and tokens: read, kept, never shown.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Serialize, Serializer};

use super::problem::Wrong;

/// What is shown in a secret's stead.
pub(super) const HIDDEN: &str = "***";

/// The longest secret, in bytes: what is longer is another file.
pub(super) const LONGEST: usize = 64 * 1024;

/// A password or token. `Debug`, `Display` and `Serialize` print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself: hand it to who needs it, never to a log or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a secret from a file, without the newlines at its end.
    pub(super) fn read(path: &Path) -> Result<Self, Wrong> {
        let unreadable = |error: &io::Error| {
            Wrong::new(
                format!("cannot be read: {error}"),
                "name a readable file that holds the secret only",
            )
        };
        let mut text = String::new();
        let file = File::open(path).map_err(|error| unreadable(&error))?;
        let read = file
            .take(LONGEST as u64 + 1)
            .read_to_string(&mut text)
            .map_err(|error| unreadable(&error))?;
        if read > LONGEST {
            return Err(Wrong::new(
                format!("larger than {LONGEST} bytes"),
                "name a file that holds the secret only",
            ));
        }
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err(Wrong::new("the file is empty", "write the secret into it"));
        }
        Ok(Self::new(secret))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(HIDDEN)
    }
}

/// Whether a free setting of this name should be hidden: the names under which backends' settings
/// keep credentials.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [
        "token",
        "secret",
        "password",
        "passwd",
        "credential",
        "private_key",
        "api_key",
    ]
    .iter()
    .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(
            format!("{secret} {secret:?} {:?}", Some(&secret)),
            "*** *** Some(***)"
        );
        assert_eq!(
            serde_json::to_string(&secret).expect("serialises"),
            r#""***""#
        );
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn names_of_credentials_are_known() {
        assert!(is_secret_name("TUXSUITE_TOKEN"));
        assert!(is_secret_name("lava_password"));
        assert!(!is_secret_name("CI_LAVA_HANDLE_SUITE"));
    }
}
