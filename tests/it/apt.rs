//! `apt.promote`: readers see all of a promotion or nothing, whoever dies, sleeps or writes beside it.
//!
//! In every test the real `apt-get update` and a walk over all files look at the channels all the time.

pub(crate) mod bed;
mod server;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use longshore::apt::{AptError, Committed, Wanted};
use longshore::clock::Clock;
use serde_json::json;

use bed::{Bed, Kind, bed, fence, new_key, on_disk_and_in_a_bucket, text, tool};
use walk::AptGet;

use crate::harness::LIMIT;

on_disk_and_in_a_bucket!("";
    packages_go_from_incoming_to_channel_to_channel,
    a_version_with_other_bytes_is_refused,
    the_halves_run_apart,
    a_worker_that_dies_at_any_point_of_the_upload_promotes_once,
    a_worker_that_dies_at_any_point_of_the_commit_promotes_once,
    a_lower_or_equal_token_changes_nothing,
    an_attempt_that_was_overtaken_changes_nothing,
    of_many_promoters_at_once_none_is_lost,
    promotions_in_a_lane_are_in_order_whoever_dies,
    what_another_tool_made_is_gone_on_with,
);

async fn packages_go_from_incoming_to_channel_to_channel(bed: Arc<Bed>) {
    let _worker = bed.worker();
    let file = bed.deb("hello", "1:1.0~rc1+b1-1", 10_000);
    let original = std::fs::read(bed.path("incoming").join(&file)).unwrap();
    bed.promote("p1", &file, "testing").await;
    let first = bed.done("p1").await;
    assert_eq!(first["packages"], json!(["hello:amd64=1:1.0~rc1+b1-1"]));
    let arguments = json!({
        "repository": "main", "from": "testing", "to": "stable",
        "packages": ["hello=1:1.0~rc1+b1-1"],
    });
    bed.enqueue("apt.promote", "p2", arguments.clone()).await;
    assert_eq!(bed.done("p2").await["generation"], 1);
    bed.enqueue("apt.promote", "p3", arguments).await;
    let again = bed.done("p3").await;
    assert_eq!(
        (&again["generation"], &again["wrote"]),
        (&json!(1), &json!(false))
    );
    let reader = AptGet::new(&bed);
    let got = reader.download("stable", "hello=1:1.0~rc1+b1-1").await;
    assert!(got == original, "apt-get downloads what was put in");
    let package = "hello:amd64=1:1.0~rc1+b1-1".to_owned();
    assert_eq!(
        bed.journal("stable").await,
        [(1, "p2".to_owned(), vec![package])]
    );
}

async fn a_version_with_other_bytes_is_refused(bed: Arc<Bed>) {
    let _worker = bed.worker();
    let file = bed.deb("hello", "1.0", 1000);
    bed.promote("p1", &file, "testing").await;
    bed.done("p1").await;
    let before = bed.get("dists/testing/InRelease").await;
    bed.deb("hello", "1.0", 1000);
    bed.promote("p2", &file, "testing").await;
    assert!(bed.dead("p2").await.contains("with other bytes"));
    assert!(
        bed.get("dists/testing/InRelease").await == before,
        "nothing has changed"
    );
    // Another repository knows nothing of the first one's pool: there it is the index that refuses.
    let arguments = json!({ "repository": "other", "to": "testing", "files": [&file] });
    bed.enqueue("apt.promote", "p3", arguments).await;
    bed.done("p3").await;
    let arguments = json!({
        "repository": "main", "to": "stable", "from_repository": "other", "from": "testing",
        "packages": ["hello=1.0"],
    });
    bed.enqueue("apt.promote", "p4", arguments).await;
    assert!(bed.dead("p4").await.contains("with other bytes"));
    for (arguments, what) in [
        (
            json!({ "repository": "nowhere", "to": "testing", "files": ["a"] }),
            "no repository",
        ),
        (
            json!({ "repository": "main", "to": "unstable", "files": ["a"] }),
            "no channel",
        ),
        (
            json!({ "repository": "main", "to": "testing", "files": ["../key.gpg"] }),
            "not the name",
        ),
        (
            json!({ "repository": "main", "to": "testing", "files": ["missing"] }),
            "not in incoming",
        ),
        (
            json!({ "repository": "main", "to": "testing", "packages": ["../hello=1"], "from": "testing" }),
            "Package",
        ),
        (
            json!({ "repository": "main", "to": "testing", "packages": ["world=1"], "from": "testing" }),
            "has no world",
        ),
        (
            json!({ "repository": "main", "to": "testing", "packages": [] }),
            "1 to",
        ),
        (json!({ "repository": "main", "too": "testing" }), "too"),
    ] {
        bed.enqueue("apt.promote", what, arguments).await;
        let reason = bed.dead(what).await;
        assert!(reason.contains(what), "{reason}");
    }
}

async fn the_halves_run_apart(bed: Arc<Bed>) {
    let _worker = bed.worker();
    let file = bed.deb("hello", "1.0", 1000);
    let packages = json!(["hello:amd64=1.0"]);
    let commit = json!({ "repository": "main", "to": "testing", "packages": packages });
    bed.enqueue("apt.commit", "early", commit.clone()).await;
    assert!(bed.dead("early").await.contains("not staged"));
    bed.enqueue(
        "apt.stage",
        "s",
        json!({ "repository": "main", "files": [file] }),
    )
    .await;
    assert_eq!(bed.done("s").await["packages"], packages);
    assert!(
        bed.get("dists/testing/InRelease").await.is_none(),
        "nothing is visible yet"
    );
    bed.enqueue("apt.commit", "c", commit).await;
    assert_eq!(bed.done("c").await["generation"], 1);
}

/// Where a worker dies while a package goes to a folder, whose pieces have 256 KiB.
pub(crate) const UPLOAD_TO_DISK: &[&str] = &[
    "apt:noted",
    "storage:piece#9",
    "storage:piece#18",
    "storage:piece#27",
];
/// … and to a bucket, whose pieces have 8 MiB.
const UPLOAD_TO_BUCKET: &[&str] = &["apt:noted", "storage:piece", "apt:staged", "settle:before"];
/// Where a worker dies while it commits.
pub(crate) const COMMIT: &[&str] = &[
    "intake:claimed",
    "apt:staged",
    "apt:indexed",
    "apt:signed",
    "apt:committed",
    "settle:after",
];

async fn a_worker_that_dies_at_any_point_of_the_upload_promotes_once(bed: Arc<Bed>) {
    let points = match bed.kind {
        Kind::Disk => UPLOAD_TO_DISK,
        Kind::Bucket => UPLOAD_TO_BUCKET,
    };
    survives(&bed, points, 9_000_000).await;
}

async fn a_worker_that_dies_at_any_point_of_the_commit_promotes_once(bed: Arc<Bed>) {
    survives(&bed, COMMIT, 1000).await;
}

/// Promotes a package for each point, by a worker that dies there and another that finishes.
async fn survives(bed: &Arc<Bed>, points: &[&str], size: usize) {
    let mut wanted = Vec::new();
    for (at, point) in (1..).zip(points) {
        let (id, name) = (format!("p{at}"), format!("package{at}"));
        let file = bed.deb(&name, "1.0", size);
        bed.promote(&id, &file, "testing").await;
        let mut doomed = bed.doomed(point);
        let status = doomed.ended(2 * LIMIT).await;
        assert!(
            !status.success(),
            "{point} was never reached:\n{}",
            doomed.log()
        );
        let mut heir = bed.worker();
        bed.done(&id).await;
        heir.signal("TERM");
        heir.ended(LIMIT).await;
        wanted.push((at, id, vec![format!("{name}:amd64=1.0")]));
        assert_eq!(bed.journal("testing").await, wanted, "after {point}");
    }
    if bed.kind == Kind::Disk {
        let aside = std::fs::read_dir(bed.path("repository/.longshore")).unwrap();
        let parts = aside.filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            path.extension()
                .is_some_and(|extension| extension == "part")
        });
        assert!(parts.count() <= points.len(), "only the dead leave parts");
    }
}

async fn a_lower_or_equal_token_changes_nothing(bed: Arc<Bed>) {
    let repository = bed.repository();
    let clock = Clock::system();
    let (a, b) = (bed.deb("hello", "1.0", 10), bed.deb("world", "1.0", 10));
    let (a, b) = (bed.stage(&a).await, bed.stage(&b).await);
    let holder = fence("p2", 1, Some(7));
    let committed = repository
        .commit("testing", &[a], &holder, &clock)
        .await
        .unwrap();
    assert_eq!(
        committed,
        Committed {
            generation: 1,
            wrote: true
        }
    );
    let before = bed.get("dists/testing/InRelease").await;
    for token in [7, 6] {
        let zombie = fence("p1", 1, Some(token));
        let answer = repository
            .commit("testing", std::slice::from_ref(&b), &zombie, &clock)
            .await;
        assert!(
            matches!(answer, Err(AptError::Stale(_))),
            "{token}: {answer:?}"
        );
    }
    assert!(
        bed.get("dists/testing/InRelease").await == before,
        "nothing has changed"
    );
    let next = fence("p3", 1, Some(8));
    let committed = repository
        .commit("testing", &[b], &next, &clock)
        .await
        .unwrap();
    assert_eq!(committed.generation, 2);
    let text = String::from_utf8(bed.get("dists/testing/InRelease").await.unwrap()).unwrap();
    assert!(text.contains("\nX-Longshore-Token: 8\n"), "{text}");
}

async fn an_attempt_that_was_overtaken_changes_nothing(bed: Arc<Bed>) {
    let repository = bed.repository();
    let clock = Clock::system();
    let (a, b) = (bed.deb("hello", "1.0", 10), bed.deb("world", "1.0", 10));
    let (a, b) = (bed.stage(&a).await, bed.stage(&b).await);
    let heir = fence("p1", 2, None);
    let written = repository
        .commit("testing", std::slice::from_ref(&a), &heir, &clock)
        .await;
    assert!(written.unwrap().wrote);
    let before = bed.get("dists/testing/InRelease").await;
    let same = repository
        .commit("testing", &[a], &fence("p1", 1, None), &clock)
        .await
        .unwrap();
    assert_eq!(
        same,
        Committed {
            generation: 1,
            wrote: false
        },
        "it is there"
    );
    let other = repository
        .commit("testing", &[b], &fence("p1", 1, None), &clock)
        .await;
    assert!(matches!(other, Err(AptError::Stale(_))), "{other:?}");
    assert!(
        bed.get("dists/testing/InRelease").await == before,
        "nothing has changed"
    );
}

async fn of_many_promoters_at_once_none_is_lost(bed: Arc<Bed>) {
    let clock = Clock::system();
    let mut staged = Vec::new();
    for at in 0..6 {
        let file = bed.deb(&format!("package{at}"), "1.0", 10);
        staged.push(bed.stage(&file).await);
    }
    let all = staged.iter().enumerate().map(|(at, package)| {
        // Each as another process would: with a connection of its own.
        let (repository, clock, package) = (bed.repository(), clock.clone(), package.clone());
        let fence = fence(&format!("p{at}"), 1, None);
        async move {
            repository
                .commit("testing", &[package], &fence, &clock)
                .await
                .unwrap()
        }
    });
    let mut generations = futures::future::join_all(all)
        .await
        .into_iter()
        .map(|committed| {
            assert!(committed.wrote);
            committed.generation
        })
        .collect::<Vec<_>>();
    generations.sort_unstable();
    assert_eq!(
        generations,
        [1, 2, 3, 4, 5, 6],
        "each is a generation of its own"
    );
    let wanted = [Wanted {
        name: "package0".into(),
        version: "1.0".into(),
        architecture: None,
    }];
    assert_eq!(
        bed.repository().find("testing", &wanted).await.unwrap(),
        staged[..1]
    );
    let journal = bed.journal("testing").await;
    let mut packages = journal
        .into_iter()
        .flat_map(|(_, _, packages)| packages)
        .collect::<Vec<_>>();
    packages.sort();
    let wanted = (0..6)
        .map(|at| format!("package{at}:amd64=1.0"))
        .collect::<Vec<_>>();
    assert_eq!(packages, wanted, "each once");
}

async fn promotions_in_a_lane_are_in_order_whoever_dies(bed: Arc<Bed>) {
    let mut wanted = Vec::new();
    for at in 1..=6 {
        let (id, name) = (format!("p{at}"), format!("package{at}"));
        let file = bed.deb(&name, "1.0", 100_000);
        bed.promote_in_lane(&id, &file, "testing").await;
        wanted.push((at, id, vec![format!("{name}:amd64=1.0")]));
    }
    let mut dead = [bed.doomed("apt:signed#2"), bed.doomed("apt:committed")];
    for doomed in &mut dead {
        let status = doomed.ended(2 * LIMIT).await;
        assert!(!status.success(), "it did not die:\n{}", doomed.log());
    }
    let _heirs = (bed.worker(), bed.worker());
    bed.done("p6").await;
    assert_eq!(bed.journal("testing").await, wanted);
    let tokens = bed.tokens("testing").await;
    assert!(
        tokens.is_sorted_by(|a, b| a.is_some() && a < b),
        "{tokens:?}"
    );
}

/// A repository without names by hash, without a journal, with names of its own: what `dpkg-scanpackages` makes.
fn scanned(bed: &Bed) {
    let file = bed.deb("foreign", "1.0", 10);
    let root = bed.path("other");
    std::fs::create_dir_all(root.join("debs")).unwrap();
    std::fs::create_dir_all(root.join("dists/testing/main/binary-amd64")).unwrap();
    std::fs::rename(bed.path("incoming").join(file), root.join("debs/any.deb")).unwrap();
    let scan = format!("cd {} && dpkg-scanpackages -m debs", text(&root));
    let index = tool("sh", &["-c", &scan]);
    std::fs::write(
        root.join("dists/testing/main/binary-amd64/Packages"),
        &index,
    )
    .unwrap();
    let sums = format!(
        "cd {} && sha256sum main/binary-amd64/Packages",
        text(&root.join("dists/testing"))
    );
    let sum = tool("sh", &["-c", &sums])[..64].to_owned();
    let release = format!(
        "Origin: Someone\nCodename: testing\nDate: Sat, 01 Jan 2000 00:00:00 UTC\nSHA256:\n {sum} {} main/binary-amd64/Packages\n",
        index.len()
    );
    std::fs::write(bed.path("Release"), release).unwrap();
}

/// Signs it with the key of that folder.
fn sign(bed: &Bed, home: &str) {
    let (home, out) = (bed.path(home), bed.path("other/dists/testing/InRelease"));
    let arguments = [
        "--homedir",
        text(&home),
        "--batch",
        "--yes",
        "--clearsign",
        "--output",
    ];
    tool(
        "gpg",
        &[&arguments[..], &[text(&out), text(&bed.path("Release"))]].concat(),
    );
}

async fn what_another_tool_made_is_gone_on_with(bed: Arc<Bed>) {
    scanned(&bed);
    let root = bed.path("other");
    new_key(&bed.path("evil"), "stranger@example.org");
    sign(&bed, "evil");
    let evil = bed.path("evil");
    tool(
        "gpgconf",
        &["--homedir", text(&evil), "--kill", "gpg-agent"],
    );
    let _worker = bed.worker();
    let arguments = |to: &str| {
        json!({
            "repository": to, "to": "testing", "from_repository": "other", "from": "testing",
            "packages": ["foreign=1.0"],
        })
    };
    bed.enqueue("apt.promote", "unsigned", arguments("main"))
        .await;
    crate::harness::wait_until("the signature is refused", LIMIT, async || {
        let task = bed.bench.view("unsigned").await;
        task.reason
            .is_some_and(|reason| reason.contains("no good signature"))
    })
    .await;
    sign(&bed, "gpg");
    bed.done("unsigned").await;
    assert!(
        bed.get("pool/main/f/foreign/foreign_1.0_amd64.deb")
            .await
            .is_some()
    );
    let hello = bed.deb("hello", "1.0", 10);
    let arguments = json!({ "repository": "other", "to": "testing", "files": [hello] });
    bed.enqueue("apt.promote", "on", arguments).await;
    assert_eq!(bed.done("on").await["generation"], 1);
    let signed = std::fs::read_to_string(root.join("dists/testing/InRelease")).unwrap();
    assert!(signed.contains("Origin: Someone\n"), "{signed}");
    let folder = root.join("dists/testing/main/binary-amd64/by-hash/SHA256");
    let texts = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    let index = texts
        .filter_map(|bytes| String::from_utf8(bytes).ok())
        .next()
        .unwrap();
    assert!(
        index.contains("Package: foreign\n") && index.contains("Package: hello\n"),
        "{index}"
    );
}

/// Old indexes go, but not those of generations that a reader may have begun with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_indexes_go_and_those_in_use_stay() {
    let settings = "keep = \"0s\"\nkeep_generations = 2\n";
    bed(Kind::Disk, settings, async |bed| {
        let repository = bed.repository();
        let clock = Clock::system();
        let folder = bed.path("repository/dists/testing/main/binary-amd64/by-hash/SHA256");
        for at in 1..=6 {
            let file = bed.deb(&format!("package{at}"), "1.0", 10);
            let package = bed.stage(&file).await;
            let fence = fence(&format!("p{at}"), 1, Some(at));
            let committed = repository
                .commit("testing", &[package], &fence, &clock)
                .await;
            assert_eq!(committed.unwrap().generation, at);
            clock.advance(Duration::from_secs(1));
            // Each generation has two: the successor of those that are kept takes the others away.
            let files = std::fs::read_dir(&folder).unwrap().count();
            assert_eq!(
                files,
                2 * usize::try_from(at).unwrap().min(4),
                "generation {at}"
            );
        }
    })
    .await;
}

/// The write of `InRelease` by a worker that was stopped arrives after its heir's, and after another promotion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_write_of_a_zombie_is_refused() {
    bed(Kind::Bucket, "", async |bed| {
        let gate = bed.gate.as_ref().unwrap();
        let (one, two) = (bed.deb("one", "1.0", 10), bed.deb("two", "1.0", 10));
        let three = bed.deb("three", "1.0", 10);
        let zombie = bed.worker();
        gate.hold("PUT testing/InRelease");
        bed.promote_in_lane("p1", &one, "testing").await;
        gate.holds().await;
        zombie.signal("STOP");
        let mut heir = bed.worker();
        bed.done("p1").await;
        bed.promote_in_lane("p2", &two, "testing").await;
        bed.done("p2").await;
        heir.signal("TERM");
        heir.ended(LIMIT).await;
        gate.open();
        zombie.signal("CONT");
        // What it does then shows that it has woken, and what it has not done.
        bed.promote_in_lane("p3", &three, "testing").await;
        bed.done("p3").await;
        let journal = bed.journal("testing").await;
        let tasks = journal
            .iter()
            .map(|(generation, task, _)| (*generation, task.as_str()));
        assert_eq!(tasks.collect::<Vec<_>>(), [(1, "p1"), (2, "p2"), (3, "p3")]);
        let tokens = bed.tokens("testing").await;
        assert!(
            tokens.is_sorted_by(|a, b| a.is_some() && a < b),
            "{tokens:?}"
        );
    })
    .await;
}
