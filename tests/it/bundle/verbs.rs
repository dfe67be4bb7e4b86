//! What the verbs of a bundle say and do, where no fleet is needed to see it.

use super::*;

on_both_with!(crate::bundle::FOLLOWS;
    a_rollback_brings_back_what_was_live_last_also_if_it_was_live_before,
    what_would_be_published_is_told_as_json_too,
);

async fn a_rollback_brings_back_what_was_live_last_also_if_it_was_live_before(scene: Arc<Scene>) {
    scene.tells(1);
    let first = scene.publish().await;
    let _worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    for number in [2, 1] {
        scene.tells(number);
        let revision = scene.publish().await;
        scene.is_live(&revision).await;
    }
    scene.tells_nonsense(3);
    ok(scene.publish_with(&["--unchecked"]).await);
    let told = ok(scene.config_verb(&["rollback"]).await);
    assert!(told.contains(&format!("is undone: as {first}")), "{told}");
    scene.is_live("newest").await;
    scene.runs("tell", "one").await;
    assert!(scene.told().iter().all(|line| line.number() == 1));
}

async fn what_would_be_published_is_told_as_json_too(scene: Arc<Scene>) {
    let would = async || -> Value {
        let told = ok(scene.publish_with(&["--dry-run", "--json"]).await);
        serde_json::from_str(&told).unwrap()
    };
    scene.tells(1);
    let first = would().await;
    assert_eq!(first["is_new"], true);
    assert_eq!(scene.status().await["state"]["newest"], Value::Null);
    assert_eq!(first["revision"], scene.publish().await);
    let again = would().await;
    let same =
        serde_json::json!({ "revision": first["revision"], "is_new": false, "difference": [] });
    assert_eq!(again, same);
    let told = ok(scene.config_verb(&["status", "--pool", "nope"]).await);
    assert!(told.contains("no worker of pool nope follows it"), "{told}");
}
