//! Somebody who reads the example's repository all the time: `apt-get update`, and every file that the index names.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

/// Reads the repository below `folder` until told to stop, and once more. Returns what the index named at the end, in order.
///
/// # Panics
///
/// If a reader ever saw a part of a publication, or something went away again or changed its place.
pub(super) async fn read(folder: PathBuf, stop: CancellationToken) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    loop {
        let last = stop.is_cancelled();
        let now = packages(&folder.join("repository")).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert!(now.starts_with(&seen), "readers saw {seen:?}, then {now:?}");
        seen = now;
        update(&folder).await;
        if last {
            return seen;
        }
        tokio::task::yield_now().await;
    }
}

/// The packages of the index in order, each of which is whole; or what is wrong.
pub(super) fn packages(repository: &Path) -> Result<Vec<String>, String> {
    let index = std::fs::read_to_string(repository.join("Packages")).unwrap();
    let stanzas = index.split("\n\n").filter(|text| !text.trim().is_empty());
    let names = stanzas.map(|stanza| {
        let field = |name: &str| {
            let start = format!("{name}: ");
            let line = stanza.lines().find_map(|line| line.strip_prefix(&start));
            line.ok_or_else(|| format!("no {name} in {stanza}"))
        };
        let path = field("Filename")?;
        let bytes = std::fs::read(repository.join(path)).map_err(|_| format!("no {path}"))?;
        let digest = Sha256::digest(&bytes);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        if digest != field("SHA256")? {
            return Err(format!("{path} is not what the index says"));
        }
        Ok(field("Package")?.to_owned())
    });
    names.collect()
}

async fn update(folder: &Path) {
    let state = folder.join("reader");
    for place in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(state.join(place)).unwrap();
    }
    let list = state.join("sources.list");
    let repository = folder.join("repository");
    let source = format!("deb [trusted=yes] file:{} ./\n", repository.display());
    std::fs::write(&list, source).unwrap();
    let output = tokio::process::Command::new("apt-get")
        .arg(format!("-oDir::Etc::sourcelist={}", list.display()))
        .arg("-oDir::Etc::sourceparts=-")
        .arg(format!("-oDir::State={}", state.display()))
        .arg("-oDir::State::status=/var/lib/dpkg/status")
        .arg(format!("-oDir::Cache={}", state.join("cache").display()))
        .args(["-oAPT::Sandbox::User=root", "-oAPT::Update::Error-Mode=any"])
        .arg("update")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "apt-get update: {said}");
}
