//! What a drain says to programs, and what it calls wrong usage.

use serde_json::{Value, json};

use super::{Bed, Ended};
use crate::cluster::Pod;
use crate::harness::run;

#[tokio::test(flavor = "multi_thread")]
async fn for_programs_there_is_an_object_for_each_change_and_nothing_else() {
    let bed = Bed::with_pod(Pod::busy);
    bed.cluster.pods_end_at_once();
    let (ended, ()) = tokio::join!(bed.drain("node n1 --wait --json"), async {
        bed.until_looked(5).await;
        bed.set_busy("p-0", false);
    });
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let objects = ended.objects();
    let (first, last) = (&objects[0], objects.last().unwrap());
    assert_eq!(first["outcome"], "waiting");
    assert_eq!(first["cordoned"], true);
    assert_eq!(first["holds"][0]["pod"], "p-0");
    assert_eq!(first["holds"][0]["state"], "busy");
    assert_eq!(first["holds"][0]["tasks"], Value::Null);
    let missing = first["details_missing"].as_str().unwrap();
    assert!(missing.contains("--config"), "{missing}");
    assert_eq!(last["outcome"], "done");
    assert_eq!(last["evicted"], json!(["longshore/p-0"]));
    for pair in objects.windows(2) {
        assert_ne!(pair[0], pair[1], "said twice");
    }
}

#[tokio::test]
async fn what_is_not_there_or_not_longshores_is_wrong_usage() {
    let bed = Bed::with_pod(|pod| pod);
    bed.cluster.add_pod(Pod::pinned("x", "foreign").on("n1"));
    bed.cluster.edit("pods", "foreign", |pod| {
        pod["metadata"]["labels"] = json!({"app": "foreign"});
    });
    let daemon = Pod::pinned("x", "daemon").on("n1").owner_daemonset("d");
    bed.cluster.add_pod(daemon);
    for (arguments, words) in [
        ("node n9", "there is no node n9"),
        ("pod p-9", "there is no pod longshore/p-9"),
        ("pod foreign --hand-off", "not Longshore's"),
        ("pod daemon", "DaemonSet"),
        (
            "pool nobody --hand-off",
            "no pod of a pool nobody in namespace longshore",
        ),
        ("pod p-0 -n a,b", "is not a namespace"),
    ] {
        bed.drain(arguments).await.with(2, &[words]);
    }
    let missing = run(&["drain", "node", "n1", "--kubeconfig", "/nowhere"]).await;
    Ended::of(&missing).with(2, &["/nowhere", "--kubeconfig"]);
    let changes = bed.cluster.log();
    assert!(
        changes
            .iter()
            .all(|seen| matches!(seen.verb, "get" | "list"))
    );
}
