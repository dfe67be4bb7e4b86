//! Who asks: the tokens of `[api.tokens]`, shown as to SQUAD.

use std::collections::{BTreeMap, HashMap};

use axum::http::HeaderMap;
use sha2::{Digest as _, Sha256};

use super::answer::Refusal;
use super::header_text;
use crate::config::Token;

/// Tokens by their hashes: how long a comparison takes then says nothing of a token.
pub(super) struct Tokens(HashMap<[u8; 32], (String, Token)>);

impl Tokens {
    pub(super) fn new(tokens: &BTreeMap<String, Token>) -> Self {
        let entry = |(name, token): (&String, &Token)| {
            (hash(token.token.expose()), (name.clone(), token.clone()))
        };
        Self(tokens.iter().map(entry).collect())
    }

    /// Whoever asks.
    pub(super) fn known(&self, headers: &HeaderMap) -> Result<(&str, &Token), Refusal> {
        let found = shown(headers).and_then(|token| self.0.get(&hash(token)));
        let (name, token) = found.ok_or(Refusal::Unknown)?;
        Ok((name, token))
    }

    /// The name of whoever asks, if that may watch test jobs of `project`.
    pub(super) fn allow(&self, headers: &HeaderMap, project: &str) -> Result<&str, Refusal> {
        let (name, token) = self.known(headers)?;
        if token.may(project) {
            Ok(name)
        } else {
            Err(Refusal::Forbidden)
        }
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.0.values().map(|(name, _)| name);
        f.debug_set().entries(names).finish()
    }
}

/// `Auth-Token: TOKEN`, or else `Authorization: Token TOKEN`.
fn shown(headers: &HeaderMap) -> Option<&str> {
    if let Some(token) = header_text(headers, "auth-token") {
        return Some(token);
    }
    let (scheme, token) = header_text(headers, "authorization")?
        .trim()
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case("token").then(|| token.trim())
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_token_counts_in_either_header_and_for_its_projects_only() {
        let token = Token {
            token: Secret::new("abc"),
            projects: vec!["g/p".into()],
            tasks: Vec::new(),
        };
        let tokens = Tokens::new(&BTreeMap::from([("ci".to_owned(), token)]));
        for (name, value) in [
            ("authorization", "Token abc"),
            ("authorization", "token abc"),
            ("auth-token", "abc"),
        ] {
            assert_eq!(tokens.allow(&headers(name, value), "g/p").unwrap(), "ci");
        }
        for (name, value) in [
            ("authorization", "Bearer abc"),
            ("authorization", "abc"),
            ("auth-token", "abcd"),
            ("auth-token", ""),
        ] {
            let refused = tokens.allow(&headers(name, value), "g/p");
            assert!(matches!(refused, Err(Refusal::Unknown)), "{name}: {value}");
        }
        let other = tokens.allow(&headers("auth-token", "abc"), "g/q");
        assert!(matches!(other, Err(Refusal::Forbidden)));
        assert!(!format!("{tokens:?}").contains("abc"));
    }
}
