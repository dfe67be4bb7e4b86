//! `fetchjob`: TuxSuite says that something has ended, and signs what it says.
//!
//! The signature (`x-tux-payload-signature`, base64 with `-` and `_`) is ECDSA on P-256 with SHA-256 over the body as it
//! came; the key is the project's setting `TUXSUITE_PUBLIC_KEY`, in OpenSSH's form (RFC 5656). The signature alone lets
//! the request in. What it says of the results is not believed: they are collected from TuxSuite.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde_json::Value;

use super::answer::{Answer, Refusal};
use super::watch::{Target, announce, is_tuxsuite};
use super::{Api, Place, header_text};
use crate::config::BackendKind;

const SIGNATURE: &str = "x-tux-payload-signature";
const KEY: &str = "TUXSUITE_PUBLIC_KEY";

/// With padding or without: both are sent.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) async fn callback(api: &Api, place: &Place, headers: &HeaderMap, body: &[u8]) -> Answer {
    let mut target = Target::of(place)?;
    let name = place.get("backend").map(String::as_str).unwrap_or_default();
    let bad = |text: String| Refusal::Bad(text);
    let Some(backend) = api.config.backends.get(name) else {
        return Err(bad("requested backend does not exist".to_owned()));
    };
    if !matches!(backend.kind, BackendKind::Tuxsuite { .. }) {
        return Err(bad(
            "requested backend does not support callbacks".to_owned()
        ));
    }
    if !api.config.knows_project(&target.project) {
        return Err(bad("group/project does not exist".to_owned()));
    }
    let project = api.config.project(&target.project);
    let key = project
        .settings
        .get(KEY)
        .or_else(|| backend.settings.get(KEY))
        .and_then(Value::as_str);
    verify(key, header_text(headers, SIGNATURE), body)
        .map_err(|why| bad(format!("request is not valid for this backend: {why}")))?;
    let payload: Value = serde_json::from_slice(body)
        .map_err(|error| bad(format!("payload failed to parse as json: {error}")))?;
    let (id, environment) =
        subject(&payload).map_err(|why| bad(format!("malformed callback payload: {why}")))?;
    if let Some(environment) = environment {
        target.environment = environment;
    }
    let testjob = announce(api, &target, name, &id, false).await?;
    tracing::info!(
        testjob,
        backend = name,
        id,
        "TuxSuite says that it has ended"
    );
    Ok(testjob)
}

/// The test job's id, and the environment if the payload knows better than the address.
fn subject(payload: &Value) -> Result<(String, Option<String>), String> {
    let text = |value: &Value, key: &str| {
        let text = value.get(key).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let (Some(kind), Some(status)) = (text(payload, "kind"), payload.get("status")) else {
        return Err("`kind` and `status` are required in the payload".to_owned());
    };
    let (Some(project), Some(uid)) = (text(status, "project"), text(status, "uid")) else {
        return Err("`project` and `uid` are required in `status`".to_owned());
    };
    let id = format!(
        "{}:{}#{uid}",
        kind.to_uppercase(),
        project.replace('/', "@")
    );
    if !is_tuxsuite(&id) {
        return Err(format!("{id:?} is no id of TuxSuite's"));
    }
    let environment = text(status, "target_arch").or_else(|| text(status, "device"));
    // A target is written with slashes between its parts.
    if environment.as_ref().is_some_and(|name| name.contains('/')) {
        return Err("the environment has a slash".to_owned());
    }
    Ok((id, environment))
}

fn verify(key: Option<&str>, signature: Option<&str>, body: &[u8]) -> Result<(), String> {
    let signature = signature.ok_or("tuxsuite request is missing signature headers")?;
    let key = key.ok_or("missing tuxsuite public key for this project")?;
    let point = point(key).ok_or_else(|| {
        format!("{KEY} of this project is no key of the form \"ecdsa-sha2-nistp256 …\"")
    })?;
    let signature = BASE64
        .decode(signature.trim())
        .map_err(|error| format!("the signature is no base64: {error}"))?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(body, &signature)
        .map_err(|_| "Failed to verify signature against payload".to_owned())
}

/// The curve's point in a key of OpenSSH's form: its kind, the curve's name and the point, each after its length.
fn point(key: &str) -> Option<Vec<u8>> {
    const KIND: &str = "ecdsa-sha2-nistp256";
    let mut words = key.split_ascii_whitespace();
    let (kind, blob) = (words.next()?, words.next()?);
    let blob = base64::prelude::BASE64_STANDARD.decode(blob).ok()?;
    let mut rest = blob.as_slice();
    let mut next = || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (text, after) = after.split_at_checked(length)?;
        rest = after;
        Some(text)
    };
    let [inner, curve, point] = [next()?, next()?, next()?];
    let is_ours = kind == KIND && inner == KIND.as_bytes() && curve == b"nistp256";
    (is_ours && rest.is_empty()).then(|| point.to_vec())
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
    use serde_json::json;

    use super::*;

    fn pair() -> (EcdsaKeyPair, String) {
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_ASN1_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap();
        let mut blob = Vec::new();
        for part in [
            b"ecdsa-sha2-nistp256".as_slice(),
            b"nistp256",
            pair.public_key().as_ref(),
        ] {
            blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            blob.extend(part);
        }
        let key = format!(
            "ecdsa-sha2-nistp256 {} me@here",
            BASE64_STANDARD.encode(blob)
        );
        (pair, key)
    }

    fn sign(pair: &EcdsaKeyPair, body: &[u8]) -> String {
        let signature = pair.sign(&SystemRandom::new(), body).unwrap();
        BASE64_URL_SAFE.encode(signature)
    }

    #[test]
    fn a_signature_counts_for_its_body_and_its_key_only() {
        let ((pair, key), (other, _)) = (self::pair(), self::pair());
        let signature = sign(&pair, b"body");
        verify(Some(&key), Some(&signature), b"body").unwrap();
        verify(Some(&key), Some(signature.trim_end_matches('=')), b"body").unwrap();
        let refused = [
            verify(Some(&key), Some(&signature), b"Body"),
            verify(Some(&key), Some(&sign(&other, b"body")), b"body"),
            verify(Some(&key), Some("***"), b"body"),
            verify(Some(&key), None, b"body"),
            verify(None, Some(&signature), b"body"),
            verify(Some("ssh-rsa AAAA"), Some(&signature), b"body"),
            verify(
                Some("ecdsa-sha2-nistp256 AAAAAAAA"),
                Some(&signature),
                b"body",
            ),
        ];
        assert!(refused.iter().all(Result::is_err), "{refused:?}");
    }

    #[test]
    fn the_id_is_made_of_kind_project_and_uid() {
        let payload = |status: Value| json!({ "kind": "test", "status": status });
        let whole = json!({ "project": "group/project", "uid": "1yPY", "device": "qemu-arm64" });
        let id = "TEST:group@project#1yPY".to_owned();
        assert_eq!(
            subject(&payload(whole)),
            Ok((id, Some("qemu-arm64".to_owned())))
        );
        for status in [
            json!({}),
            json!({ "project": "group/project" }),
            json!({ "project": "group/project", "uid": "a/b" }),
            json!({ "project": "group", "uid": "ab" }),
            json!({ "project": "group/project", "uid": "ab", "device": "a/b" }),
        ] {
            assert!(subject(&payload(status.clone())).is_err(), "{status}");
        }
        assert!(subject(&json!([])).is_err());
    }
}
