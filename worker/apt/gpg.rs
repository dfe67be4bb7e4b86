//! Signatures, by the program `gpg`: a child with a time limit and without our environment.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// For one signature: it takes milliseconds, or a smart card and its owner's finger.
const LIMIT: Duration = Duration::from_secs(60);

/// The most that it may say.
const MOST: u64 = 16 * 1024 * 1024;

/// How what is signed begins.
const SIGNED: &[u8] = b"-----BEGIN PGP SIGNED MESSAGE-----\n";

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum GpgError {
    /// It could not be run, or did not end.
    #[error("gpg: {0}")]
    Run(#[from] std::io::Error),
    /// It did not end in time.
    #[error("gpg has not ended within {LIMIT:?}: does its key want a passphrase?")]
    Slow,
    /// It refused.
    #[error("gpg: {0}")]
    Refused(String),
    /// There is no good signature.
    #[error("no good signature by a key in gpg_home: {0}")]
    Unsigned(String),
}

/// Signs `text` in the clear by the key with this fingerprint.
pub(super) async fn sign(home: &Path, key: &str, text: &str) -> Result<Vec<u8>, GpgError> {
    let key = format!("{key}!");
    let arguments = [
        "--local-user",
        &key,
        "--digest-algo",
        "SHA512",
        "--clearsign",
    ];
    let said = run(home, &arguments, text.as_bytes()).await?;
    if said.success && said.out.starts_with(SIGNED) {
        Ok(said.out)
    } else {
        Err(GpgError::Refused(said.complaint()))
    }
}

/// The text that is signed in `signed`, by any key that `home` has.
pub(super) async fn verified(home: &Path, signed: &[u8]) -> Result<String, GpgError> {
    if !signed.starts_with(SIGNED) {
        return Err(GpgError::Unsigned("it is no signed text".into()));
    }
    // What gpg gives out is what was signed, whatever else stands around it.
    let said = run(home, &["--decrypt"], signed).await?;
    let count = |word: &str| {
        let start = format!("[GNUPG:] {word} ");
        said.err
            .lines()
            .filter(|line| line.starts_with(&start))
            .count()
    };
    let is_good = said.success && count("GOODSIG") >= 1 && count("VALIDSIG") >= 1;
    if !is_good || count("PLAINTEXT") != 1 {
        return Err(GpgError::Unsigned(said.complaint()));
    }
    String::from_utf8(said.out).map_err(|_| GpgError::Unsigned("it is no UTF-8 text".into()))
}

struct Said {
    success: bool,
    out: Vec<u8>,
    err: String,
}

impl Said {
    /// What it said for people, shortened.
    fn complaint(&self) -> String {
        let lines = self
            .err
            .lines()
            .filter(|line| !line.starts_with("[GNUPG:]"));
        let text = lines.collect::<Vec<_>>().join("; ");
        text.chars().take(500).collect()
    }
}

async fn run(home: &Path, arguments: &[&str], input: &[u8]) -> Result<Said, GpgError> {
    let mut child = Command::new("gpg")
        .arg("--homedir")
        .arg(home)
        .args(["--batch", "--no-tty", "--status-fd", "2", "--output", "-"])
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(GpgError::Refused("it has no pipes".into()));
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let talk = async {
        let write = async {
            // It may have ended before it read all; its status says so then.
            drop(stdin.write_all(input).await);
            drop(stdin);
            Ok(0)
        };
        let (mut stdout, mut stderr) = (stdout.take(MOST), stderr.take(MOST));
        tokio::try_join!(
            write,
            stdout.read_to_end(&mut out),
            stderr.read_to_end(&mut err)
        )?;
        child.wait().await
    };
    let status = tokio::time::timeout(LIMIT, talk)
        .await
        .map_err(|_| GpgError::Slow)??;
    Ok(Said {
        success: status.success(),
        out,
        err: String::from_utf8_lossy(&err).into_owned(),
    })
}
