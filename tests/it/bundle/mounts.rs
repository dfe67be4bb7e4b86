//! Sources that change on their own: mounts that swap, one after another, that are empty for a moment, files that are half there.

use std::os::unix::fs::symlink;

use super::*;

/// Two mounts, which are looked at often and have to rest for a while.
pub(crate) const MOUNTS: &str = "[bundle]\nname = \"mounted\"\nfolder = \"kept\"\nlook_every = \"100ms\"\ncheck_limit = \"3s\"\nquiet_min = \"700ms\"\nquiet_max = \"6s\"\n\
    [bundle.sources]\none = \"one\"\ntwo = \"two\"\n";

on_both_with!(crate::bundle::mounts::MOUNTS;
    two_mounts_of_one_set_are_taken_when_both_are_there,
    a_mount_without_a_mark_has_to_rest_first,
    a_mount_that_is_empty_or_half_there_changes_nothing,
);

impl Scene {
    /// Swaps a ConfigMap's mount as the kubelet does: new files in a new folder, then one link.
    fn swap(&self, mount: &str, number: u32, mark: Option<&str>) {
        let root = self.bench.folder.join(mount);
        let version = root.join(format!("..2026_{number}"));
        std::fs::create_dir_all(&version).unwrap();
        std::fs::write(version.join(format!("{mount}.toml")), text(mount, number)).unwrap();
        if let Some(mark) = mark {
            std::fs::write(version.join(".bundle"), mark).unwrap();
        }
        let beside = root.join("..data_tmp");
        symlink(version.file_name().unwrap(), &beside).unwrap();
        let old = std::fs::read_link(root.join("..data"));
        std::fs::rename(&beside, root.join("..data")).unwrap();
        for name in [format!("{mount}.toml"), ".bundle".to_owned()] {
            let link = root.join(&name);
            if link.symlink_metadata().is_err() && version.join(&name).exists() {
                symlink(format!("..data/{name}"), link).unwrap();
            }
        }
        if let Ok(old) = old {
            std::fs::remove_dir_all(root.join(old)).unwrap();
        }
    }
}

/// A mount's file.
fn text(mount: &str, number: u32) -> String {
    format!("[features]\n{mount}-{number} = true\n")
}

async fn begins(scene: &Scene, mark: Option<&str>) -> Child {
    scene.swap("one", 1, mark);
    scene.swap("two", 1, mark);
    let worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| !report["applied"].is_null())
        .await;
    worker
}

/// The revision that is applied now.
async fn applied(scene: &Scene) -> String {
    scene.report().await["applied"].as_str().unwrap().to_owned()
}

async fn two_mounts_of_one_set_are_taken_when_both_are_there(scene: Arc<Scene>) {
    let _worker = begins(&scene, Some("set 1")).await;
    let first = applied(&scene).await;
    scene.swap("one", 2, Some("set 2"));
    let report = scene
        .reports("it sees two sets", |report| !report["error"].is_null())
        .await;
    assert!(
        report["error"]
            .as_str()
            .unwrap()
            .contains("one set 2, two set 1"),
        "{report}"
    );
    assert_eq!(report["applied"], first.as_str());
    assert!(report["behind_since"].as_i64().is_some(), "{report}");
    // Far longer than sources without a mark have to rest.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(applied(&scene).await, first);
    scene.swap("two", 2, Some("set 2"));
    scene
        .reports("both are there", |report| {
            report["applied"] != first.as_str() && report["error"].is_null()
        })
        .await;
}

async fn a_mount_without_a_mark_has_to_rest_first(scene: Arc<Scene>) {
    let _worker = begins(&scene, None).await;
    let first = applied(&scene).await;
    for number in 2..6 {
        scene.swap("one", number, None);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(applied(&scene).await, first, "it moves still");
    }
    scene.swap("two", 5, None);
    scene
        .reports("it rests", |report| report["applied"] != first.as_str())
        .await;
    let kept = scene
        .bench
        .folder
        .join("kept/mounted")
        .join(applied(&scene).await);
    for (mount, number) in [("one", 5), ("two", 5)] {
        let there = std::fs::read_to_string(
            kept.join("sources")
                .join(mount)
                .join(format!("{mount}.toml")),
        )
        .unwrap();
        assert_eq!(there, text(mount, number));
    }
}

async fn a_mount_that_is_empty_or_half_there_changes_nothing(scene: Arc<Scene>) {
    let _worker = begins(&scene, None).await;
    let first = applied(&scene).await;
    let root = scene.bench.folder.join("two");
    std::fs::rename(root.join("..data"), root.join("away")).unwrap();
    std::fs::rename(root.join("two.toml"), root.join("..two")).unwrap();
    std::fs::rename(root.join("away"), root.join("..away")).unwrap();
    let report = scene
        .reports("it is empty", |report| !report["error"].is_null())
        .await;
    assert!(
        report["error"].as_str().unwrap().contains("is empty"),
        "{report}"
    );
    assert_eq!(report["applied"], first.as_str());
    std::fs::rename(root.join("..two"), root.join("two.toml")).unwrap();
    std::fs::rename(root.join("..away"), root.join("..data")).unwrap();
    scene
        .reports("it is back", |report| report["error"].is_null())
        .await;
    assert_eq!(applied(&scene).await, first);
    // Half of a file is no TOML: refused, and the whole of it is taken. (A folder without the kubelet's links.)
    scene.swap("two", 2, None);
    let path = root.join("..2026_2/plain.toml");
    std::fs::write(&path, "[features]\nhalf = tr").unwrap();
    scene
        .reports("half of it is refused", |report| {
            !report["refused"].is_null()
        })
        .await;
    assert_eq!(applied(&scene).await, first);
    std::fs::write(&path, "[features]\nhalf = true\n").unwrap();
    scene
        .reports("the whole is taken", |report| {
            report["applied"] != first.as_str() && report["error"].is_null()
        })
        .await;
}
