//! A stand-in S3 (moto, a program of its own) and a gate before it that holds requests up.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Ends with the pipe to it, so with the test in any case.
    _process: tokio::process::Child,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = here.join("target/tools/s3/bin/python");
        assert!(
            python.exists(),
            "{} is missing: run scripts/tools",
            python.display()
        );
        let mut process = tokio::process::Command::new(python)
            .arg(here.join("tests/promotion/s3.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines
            .next_line()
            .await
            .unwrap()
            .expect("it says where it is");
        let address = address.parse().unwrap();
        let asked = process.stdin.as_mut().unwrap().write_all(b"debs\n").await;
        asked.unwrap();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("debs"));
        Self {
            address,
            _process: process,
        }
    }
}

/// A proxy that can hold up a request.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    held: Arc<watch::Sender<Held>>,
}

#[derive(Debug, Default, Clone)]
struct Held {
    /// A request with this in its first line is held.
    what: Option<String>,
    /// So many are held now.
    count: u32,
}

impl Gate {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let held = Arc::new(watch::Sender::new(Held::default()));
        let shared = Arc::clone(&held);
        tokio::task::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::task::spawn(pass(client, server, Arc::clone(&shared)));
            }
        });
        Self { address, held }
    }

    /// From now on the first request of this kind waits, for instance `PUT` of `InRelease`.
    pub(crate) fn hold(&self, what: &str) {
        self.held
            .send_modify(|held| held.what = Some(what.to_owned()));
    }

    /// Waits until one waits; others of its kind pass from then on.
    pub(crate) async fn holds(&self) {
        let mut held = self.held.subscribe();
        tokio::time::timeout(crate::harness::LIMIT, held.wait_for(|held| held.count > 0))
            .await
            .expect("a request is held")
            .unwrap();
    }

    /// Lets it go.
    pub(crate) fn open(&self) {
        self.held.send_modify(|held| *held = Held::default());
    }
}

/// Passes what a client sends, piece by piece; a piece that begins a request of the kind that is held waits.
async fn pass(client: TcpStream, server: SocketAddr, held: Arc<watch::Sender<Held>>) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::task::spawn(async move {
        drop(tokio::io::copy(&mut from_server, &mut to_client).await);
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
        let first = buffer[..read]
            .split(|byte| *byte == b'\r')
            .next()
            .unwrap_or_default();
        let first = String::from_utf8_lossy(first).into_owned();
        let waits = held.send_if_modified(|held| {
            let is_held = held.what.as_ref().is_some_and(|what| {
                let mut words = what.split(' ');
                words.all(|word| first.contains(word))
            });
            if is_held {
                held.what = None;
                held.count += 1;
            }
            is_held
        });
        if waits
            && held
                .subscribe()
                .wait_for(|held| held.count == 0)
                .await
                .is_err()
        {
            return;
        }
        if to_server.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    drop(to_server);
    drop(back.await);
}
