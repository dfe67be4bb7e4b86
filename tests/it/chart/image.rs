//! The image that scripts/image makes of the program.

use std::path::Path;
use std::process::Command;

use super::helm::{said, source};
use crate::harness::Folder;

fn image(arguments: &[&Path]) -> String {
    let output = Command::new(source("scripts/image"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

#[test]
fn an_image_of_the_same_program_is_the_same() {
    let folder = Folder::new();
    let [one, other] = ["one.tar", "other.tar"].map(|name| folder.join(name));
    for out in [&one, &other] {
        // Any program will do, and this one is small.
        image(&[Path::new("--binary"), Path::new("/bin/true"), out]);
    }
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&other).unwrap());
}

#[test]
fn the_program_runs_in_its_image_as_its_user() {
    let folder = Folder::new();
    let out = folder.join("image.tar");
    let program = Path::new(env!("CARGO_BIN_EXE_longshore"));
    image(&[Path::new("--binary"), program, &out]);
    let said = image(&[Path::new("--check"), &out]);
    assert_eq!(said, format!("longshore {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_image_has_no_shell() {
    let folder = Folder::new();
    let root = folder.join("root");
    let program = Path::new(env!("CARGO_BIN_EXE_longshore"));
    image(&[Path::new("--binary"), program, Path::new("--root"), &root]);
    let programs: Vec<_> = std::fs::read_dir(root.join("usr/bin"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(programs, ["longshore"]);
    assert!(!root.join("bin").exists());
    let accounts = std::fs::read_to_string(root.join("etc/passwd")).unwrap();
    assert!(accounts.contains("longshore:x:65532:65532:"), "{accounts}");
    assert!(
        std::fs::metadata(root.join("etc/ssl/certs/ca-certificates.crt"))
            .unwrap()
            .len()
            > 1000
    );
}
