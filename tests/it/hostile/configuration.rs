//! A configuration that is wrong.

use tokio::net::TcpListener;

use crate::harness::{Folder, run};

#[tokio::test]
async fn every_mistake_of_a_configuration_is_told_at_once_and_nobody_is_called() {
    let folder = Folder::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let path = folder.join("longshore.toml");
    let text = format!(
        "[store]\nurl = \"postgres://u:s3cret-store@{address}/d\"\n\
         [broker]\nurl = \"amqp://u:s3cret-broker@{address}\"\nqueue_type = \"round\"\n\
         [worker]\nlease = \"fast\"\n\
         [pools.fetch]\nkind = \"elastic\"\nqueues = [\"q\"]\nslots = 0\n\
         [backends.lab]\nkind = \"lava\"\nurl = \"http://{address}/api/v0.2/\"\ntokn = \"s3cret-token\"\n\
         [projects.\"*\"]\nplugins = [\"tradefd\"]\n",
    );
    std::fs::write(&path, &text).unwrap();
    let config = path.to_str().unwrap();
    for verb in [
        &["run", "--pool", "fetch"][..],
        &["migrate"],
        &["task", "list"],
        &["config", "check"],
        &["enqueue", "task", "a"],
    ] {
        let mut arguments = vec!["--config", config];
        arguments.extend(verb);
        let output = run(&arguments).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{verb:?}: {said}");
        for mistake in [
            "longshore.toml:5: broker.queue_type = \"round\"",
            "longshore.toml:7: worker.lease = \"fast\"",
            "longshore.toml:11: pools.fetch.slots = 0",
            "longshore.toml:15: backends.lab.tokn",
            "longshore.toml:17: projects.",
            "tradefd",
            "5 mistakes to mend; nothing was started",
        ] {
            assert!(
                said.contains(mistake),
                "{verb:?} does not say {mistake:?}:\n{said}"
            );
        }
        assert!(!said.contains("s3cret"), "a secret is told:\n{said}");
        assert!(output.stdout.is_empty());
    }
    let called = tokio::select! {
        biased;
        called = listener.accept() => Some(called),
        () = std::future::ready(()) => None,
    };
    assert!(called.is_none(), "a server was called");
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "nothing was made"
    );
}
