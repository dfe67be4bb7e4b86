//! How a Python child is started: our package beside the application, and the command.
//!
//! The package is a part of this program, so that both always speak the same protocol and nothing has to be installed.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::child::Program;
use super::folder::Folder;

/// The package's modules.
const MODULES: [(&str, &str); 5] = [
    (
        "__init__.py",
        include_str!("../python/longshore/__init__.py"),
    ),
    ("child.py", include_str!("../python/longshore/child.py")),
    ("line.py", include_str!("../python/longshore/line.py")),
    ("tracer.py", include_str!("../python/longshore/tracer.py")),
    ("plugin.py", include_str!("../python/longshore/plugin.py")),
];

/// The Python package, in a folder that goes with it.
#[derive(Debug)]
pub struct Package(Folder);

impl Package {
    /// Writes it.
    ///
    /// # Errors
    ///
    /// The folder for temporary files cannot be written to.
    pub fn unpack() -> io::Result<Self> {
        let folder = Folder::make()?;
        let package = folder.path().join("longshore");
        std::fs::create_dir(&package)?;
        for (name, text) in MODULES {
            std::fs::write(package.join(name), text)?;
        }
        Ok(Self(folder))
    }

    /// Where to import it from.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// `PYTHONPATH` with this package, then `path`, then what it was.
    pub(crate) fn python_path(&self, path: &[PathBuf]) -> OsString {
        let before = std::env::var_os("PYTHONPATH").unwrap_or_default();
        let parts = std::iter::once(self.path().to_owned())
            .chain(path.iter().cloned())
            .chain(std::env::split_paths(&before).filter(|it| !it.as_os_str().is_empty()));
        // Only a path with a colon in it could fail, and then nothing can be said.
        std::env::join_paths(parts).unwrap_or_default()
    }

    /// The command that hosts `app`.
    pub(super) fn program(
        &self,
        app: &str,
        python: &Path,
        path: &[PathBuf],
        silence: Duration,
        memory: Option<u64>,
    ) -> Program {
        let mut command: Vec<OsString> = vec![python.into()];
        command.extend(["-m", "longshore.child", "--app", app].map(OsString::from));
        command.extend(["--parent".into(), std::process::id().to_string().into()]);
        if let Some(memory) = memory {
            command.extend(["--memory".into(), memory.to_string().into()]);
        }
        Program {
            name: "python".into(),
            command,
            environment: vec![
                ("PYTHONPATH".into(), self.python_path(path)),
                ("PYTHONUNBUFFERED".into(), "1".into()),
            ],
            alone: false,
            folder: None,
            speaks: false,
            silence: Some(silence),
            log_limit: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_whole_and_goes_with_its_folder() {
        let package = Package::unpack().unwrap();
        let folder = package.path().to_owned();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker/python/longshore");
        for entry in std::fs::read_dir(source).unwrap() {
            let name = entry.unwrap().file_name();
            if name.to_string_lossy().ends_with(".py") {
                let there = folder.join("longshore").join(&name).exists();
                assert!(there, "{name:?} is not in MODULES");
            }
        }
        drop(package);
        assert!(!folder.exists());
    }
}
