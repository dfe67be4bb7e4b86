//! Addresses of servers: URLs whose passwords have been split off.
//!
//! A [`Url`] that leaves here never holds a password, so it can be logged.

use serde::Serializer;
use url::Url;

use super::problem::Wrong;
use super::secret::{HIDDEN, Secret};

/// The parameter of a PostgreSQL URL that holds a password.
const PASSWORD_PARAMETER: &str = "password";

/// An address, and the secret that was written in it.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) url: Url,
    pub(super) secret: Option<Secret>,
}

/// Reads a URL of one of `schemes` and splits its password off.
pub(super) fn parse(text: &str, schemes: &[&str], example: &str) -> Result<Address, Wrong> {
    let mend = || format!("write for instance {example}");
    let mut url =
        Url::parse(text).map_err(|error| Wrong::new(format!("not a URL: {error}"), mend()))?;
    if !schemes.contains(&url.scheme()) {
        return Err(Wrong::new(
            format!("not a URL that starts with {}", schemes.join(" or ")),
            mend(),
        ));
    }
    if url.cannot_be_a_base() || !url.has_authority() {
        return Err(Wrong::new("a URL without a host", mend()));
    }
    // "user:a/b@host" reads as the host "user": what follows would be shown, though it is a password.
    let behind_host = [url.path(), url.query().unwrap_or_default()];
    if behind_host.iter().any(|part| part.contains('@')) || url.fragment().is_some() {
        return Err(Wrong::new(
            "a URL with @ or # behind its host",
            "write /, ?, # and @ in a password as %2F, %3F, %23 and %40, or use a file for it",
        ));
    }
    let in_user = match url.password() {
        Some(password) => Some(percent_decoded(password)?),
        None => None,
    };
    url.set_password(None)
        .map_err(|()| Wrong::new("a URL without a host", mend()))?;
    let in_query = take_parameter(&mut url);
    let secret = in_user
        .or(in_query)
        .filter(|secret| !secret.is_empty())
        .map(Secret::new);
    Ok(Address { url, secret })
}

/// What a problem may show of a URL, which may be malformed: never what stands before the last `@`
/// or behind `?`.
pub(super) fn masked(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| {
        if scheme.contains('@') {
            ("", text)
        } else {
            (scheme, rest)
        }
    });
    let scheme = if scheme.is_empty() {
        String::new()
    } else {
        format!("{scheme}://")
    };
    let rest = rest
        .rsplit_once('@')
        .map_or_else(|| rest.to_owned(), |(_, host)| format!("{HIDDEN}@{host}"));
    let rest = rest
        .split_once('?')
        .map_or_else(|| rest.clone(), |(path, _)| format!("{path}?{HIDDEN}"));
    format!("{scheme}{rest}")
}

/// For `#[serde(serialize_with = …)]` on a URL.
pub(super) fn serialize_url<S: Serializer>(url: &Url, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(url.as_str())
}

/// Removes the password from the parameters.
fn take_parameter(url: &mut Url) -> Option<String> {
    let is_password = |name: &str| name.eq_ignore_ascii_case(PASSWORD_PARAMETER);
    let (_, password) = url.query_pairs().find(|(name, _)| is_password(name))?;
    let password = password.into_owned();
    let kept: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| !is_password(name))
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(kept);
    }
    Some(password)
}

/// Undoes RFC 3986's percent-encoding.
fn percent_decoded(text: &str) -> Result<String, Wrong> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let decoded = match (first, behind) {
            (b'%', [high, low, behind @ ..]) => hex(*high)
                .zip(hex(*low))
                .map(|(high, low)| (high << 4 | low, behind)),
            _ => None,
        };
        let (byte, behind) = decoded.unwrap_or((*first, behind));
        bytes.push(byte);
        rest = behind;
    }
    String::from_utf8(bytes).map_err(|_| {
        Wrong::new(
            "a password that is not UTF-8 text",
            "write its bytes as %XX of UTF-8",
        )
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POSTGRES: [&str; 2] = ["postgres", "postgresql"];

    fn split(text: &str) -> (String, Option<String>) {
        let address = parse(text, &POSTGRES, "postgres://user@host/db").expect("an address");
        (
            address.url.to_string(),
            address.secret.map(|secret| secret.expose().to_owned()),
        )
    }

    #[test]
    fn a_password_is_split_off_wherever_it_stands() {
        let expected = ("postgres://me@host/db".to_owned(), Some("p@s+s".to_owned()));
        assert_eq!(split("postgres://me:p%40s+s@host/db"), expected);
        assert_eq!(split("postgres://me@host/db?password=p%40s%2Bs"), expected);
        let (url, secret) = split("postgres://me@host/db?sslmode=require&password=x");
        assert_eq!(
            (url.as_str(), secret.as_deref()),
            ("postgres://me@host/db?sslmode=require", Some("x"))
        );
    }

    #[test]
    fn a_password_with_raw_separators_is_refused_rather_than_shown() {
        for text in [
            "postgres://me:1/2@host/db",
            "postgres://me:1#2@host/db",
            "postgres://me:1@a?2@host/db",
        ] {
            assert!(parse(text, &POSTGRES, "").is_err(), "{text}");
        }
    }

    #[test]
    fn a_malformed_url_is_shown_without_its_password() {
        assert_eq!(
            masked("postgres//me:hun?ter@2@host/db?x=y"),
            "***@host/db?***"
        );
        assert_eq!(
            masked("postgres://me:hunter2@host/db"),
            "postgres://***@host/db"
        );
        assert_eq!(masked("postgres://host/db"), "postgres://host/db");
    }

    proptest! {
        #[test]
        fn no_secret_is_left_in_any_url(password in "[a-zA-Z0-9:/?#@%&+= ]{6,12}") {
            // Digits and a letter that nothing else here has, so that finding it means a leak.
            let password = format!("Z{password}Z");
            let text = format!("postgres://me:{password}@host/db");
            prop_assert!(!masked(&text).contains(&password));
            if let Ok(address) = parse(&text, &POSTGRES, "") {
                prop_assert!(!address.url.as_str().contains('Z'), "{}", address.url);
            }
        }
    }
}
