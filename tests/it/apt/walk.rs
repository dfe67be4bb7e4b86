//! Two readers that know nothing of ours: the real `apt-get`, and a walk from `InRelease` to every byte that it leads to.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

use super::bed::{Bed, text, tool};
use crate::harness::unique;

static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().no_proxy().build().unwrap()
});

/// A file below an address of a repository.
pub(crate) async fn get(address: &str, path: &str) -> Option<Vec<u8>> {
    if let Some(root) = address.strip_prefix("file:") {
        return tokio::fs::read(format!("{root}/{path}")).await.ok();
    }
    // As apt asks for it: `+` would be read as a space.
    let url = format!("{address}/{}", path.replace('+', "%2b"));
    let answer = CLIENT.get(url).send().await.unwrap();
    if answer.status() == 404 {
        return None;
    }
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    Some(answer.bytes().await.unwrap().to_vec())
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a channel's `InRelease` says of its files: hash, size, path.
async fn listed(bed: &Bed, channel: &str) -> Option<Vec<(String, usize, String)>> {
    let signed = bed.get(&format!("dists/{channel}/InRelease")).await?;
    // A reader of its own may be looking.
    let file = bed.path(&format!("seen-{channel}-{}", unique()));
    std::fs::write(&file, signed).unwrap();
    let content = tool(
        "gpgv",
        &["--keyring", text(&bed.key()), "--output", "-", text(&file)],
    );
    let (_, list) = content.split_once("\nSHA256:\n").expect("a list");
    let lines = list.lines().take_while(|line| line.starts_with(' '));
    let files = lines.map(|line| {
        let parts = line.split_whitespace().collect::<Vec<_>>();
        (
            parts[0].to_owned(),
            parts[1].parse().unwrap(),
            parts[2].to_owned(),
        )
    });
    Some(files.collect())
}

/// A file of a channel by its hash.
async fn by_hash(bed: &Bed, channel: &str, sha: &str, path: &str) -> Option<Vec<u8>> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    bed.get(&format!("dists/{channel}/{folder}/by-hash/SHA256/{sha}").replace("//", "/"))
        .await
}

/// Follows a channel to its end; `None`: there is none. The packages, or what is wrong.
pub(crate) async fn walk(bed: &Bed, channel: &str) -> Result<Option<BTreeSet<String>>, String> {
    let Some(files) = listed(bed, channel).await else {
        return Ok(None);
    };
    let mut packages = BTreeSet::new();
    for (sha, size, path) in files {
        let bytes = by_hash(bed, channel, &sha, &path).await;
        let bytes = bytes.ok_or_else(|| format!("{channel}: {path} by hash {sha} is missing"))?;
        if bytes.len() != size || sha256(&bytes) != sha {
            return Err(format!("{channel}: {path} is not what InRelease says"));
        }
        if !path.ends_with("/Packages") {
            continue;
        }
        let index = String::from_utf8(bytes).unwrap();
        for stanza in index
            .split("\n\n")
            .filter(|stanza| !stanza.trim().is_empty())
        {
            let field = |name: &str| {
                let start = format!("{name}: ");
                let line = stanza.lines().find_map(|line| line.strip_prefix(&start));
                line.unwrap_or_else(|| panic!("no {name} in {stanza}"))
                    .to_owned()
            };
            let file = field("Filename");
            let bytes = bed.get(&file).await;
            let bytes = bytes.ok_or_else(|| format!("{channel}: {file} is missing"))?;
            if bytes.len().to_string() != field("Size") || sha256(&bytes) != field("SHA256") {
                return Err(format!("{channel}: {file} is not what the index says"));
            }
            packages.insert(format!("{}={}", field("Package"), field("Version")));
        }
    }
    Ok(Some(packages))
}

/// The lines of a channel's journal.
pub(crate) async fn entries(bed: &Bed, channel: &str) -> Vec<serde_json::Value> {
    let files = listed(bed, channel).await.unwrap();
    let is_journal = |(_, _, path): &&(String, usize, String)| path == "longshore.journal";
    let (sha, _, path) = files.iter().find(is_journal).unwrap();
    let bytes = by_hash(bed, channel, sha, path).await.unwrap();
    let lines = String::from_utf8(bytes).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// `(generation, task, packages)` of each generation of a channel.
pub(crate) async fn journal(bed: &Bed, channel: &str) -> Vec<(i64, String, Vec<String>)> {
    let entries = entries(bed, channel).await;
    let told = entries.into_iter().map(|entry| {
        let packages = entry["packages"].as_array().unwrap().iter();
        (
            entry["generation"].as_i64().unwrap(),
            entry["task"].as_str().unwrap().to_owned(),
            packages
                .map(|package| package.as_str().unwrap().to_owned())
                .collect(),
        )
    });
    told.collect()
}

/// apt's own reader, with folders of its own.
pub(crate) struct AptGet {
    folder: PathBuf,
    source: String,
}

impl AptGet {
    pub(crate) fn new(bed: &Bed) -> Self {
        let folder = bed.path(&format!("apt-{}", longshore::id::TaskId::fresh()));
        let source = format!(
            "deb [arch=amd64 signed-by={}] {}",
            text(&bed.key()),
            bed.address()
        );
        Self { folder, source }
    }

    async fn run(&self, channel: &str, verb: &[&str]) -> Result<(), String> {
        let state = self.folder.join(channel);
        std::fs::create_dir_all(state.join("lists/partial")).unwrap();
        std::fs::create_dir_all(state.join("cache/archives/partial")).unwrap();
        let list = state.join("sources.list");
        std::fs::write(&list, format!("{} {channel} main\n", self.source)).unwrap();
        let set = |key: &str, value: &str| format!("-o{key}={value}");
        let output = tokio::process::Command::new("apt-get")
            .args([
                set("Dir::Etc::sourcelist", text(&list)),
                set("Dir::Etc::sourceparts", "-"),
                set("Dir::State", text(&state)),
                set("Dir::State::status", "/var/lib/dpkg/status"),
                set("Dir::Cache", text(&state.join("cache"))),
                set("APT::Sandbox::User", "root"),
                set("Acquire::Retries", "0"),
                // A warning says that an index was not read.
                set("APT::Update::Error-Mode", "any"),
            ])
            .args(verb)
            .current_dir(&state)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("http_proxy")
            .output()
            .await
            .unwrap();
        if output.status.success() {
            return Ok(());
        }
        let (out, err) = (&output.stdout, &output.stderr);
        Err(format!(
            "apt-get {verb:?} of {channel}: {}{}",
            String::from_utf8_lossy(out),
            String::from_utf8_lossy(err)
        ))
    }

    pub(crate) async fn update(&self, channel: &str) -> Result<(), String> {
        self.run(channel, &["update"]).await
    }

    /// Downloads `package=version`, after an update, and returns its bytes.
    pub(crate) async fn download(&self, channel: &str, package: &str) -> Vec<u8> {
        self.update(channel).await.unwrap();
        self.run(channel, &["download", package]).await.unwrap();
        let folder = std::fs::read_dir(self.folder.join(channel)).unwrap();
        let mut files = folder.map(|entry| entry.unwrap().path());
        let is_deb = |path: &PathBuf| path.extension().is_some_and(|it| it == "deb");
        let file = files.find(is_deb).expect("it was downloaded");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(file).unwrap();
        bytes
    }
}
