//! Downloads a file: resumes after a broken connection, and verifies the contents before giving the
//! file its final name.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::client::{Client, HttpError, Response};
use super::listing::RemoteFile;
use crate::names::{hex, is_bare_name};
use crate::{Status, StatusFn};

/// Number of consecutive attempts without progress before giving up.
const ATTEMPTS: u32 = 4;
/// Pause after an attempt that made progress; doubles with each consecutive attempt that did not.
const PAUSE: Duration = Duration::from_millis(250);

/// A file to download.
pub(super) struct Download<'a> {
    pub(super) url: &'a str,
    /// Folder for blobs.
    pub(super) blobs: &'a Path,
    /// Name of the partial download in that folder, unique to the contents.
    pub(super) part: &'a str,
    /// The file's entry in the hub's file list.
    pub(super) listed: &'a RemoteFile,
    /// Maximum plausible length.
    pub(super) limit: u64,
}

/// Why a download failed.
pub(super) enum Failure {
    Io(PathBuf, io::Error),
    Http(HttpError),
    /// The hub returned an error status.
    Status(Box<Response>),
    Damaged(String),
}

/// Why an attempt failed.
enum AttemptError {
    /// The connection broke; another attempt may receive the rest.
    Broken(String),
    Fatal(Failure),
}

impl From<Failure> for AttemptError {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure)
    }
}

/// Downloads the file, retrying as needed, and returns the path of its blob.
pub(super) fn run(
    client: &Client,
    download: &Download<'_>,
    status: &mut StatusFn<'_>,
) -> Result<PathBuf, Failure> {
    let part = download.blobs.join(download.part);
    let received = || fs::metadata(&part).map_or(0, |m| m.len());
    let mut fruitless = 0;
    loop {
        let before = received();
        let what = match attempt(client, download, &part, status) {
            Ok(blob) => return Ok(blob),
            Err(AttemptError::Fatal(failure)) => return Err(failure),
            Err(AttemptError::Broken(what)) => what,
        };
        fruitless = if received() > before { 0 } else { fruitless + 1 };
        if fruitless == ATTEMPTS {
            let next = "the partial download was kept; retry to resume it";
            return Err(Failure::Damaged(format!("{what}; {next}")));
        }
        status(Status::Message(&format!("{what}; retrying")));
        std::thread::sleep(PAUSE * 2u32.pow(fruitless));
    }
}

fn attempt(
    client: &Client,
    download: &Download<'_>,
    path: &Path,
    status: &mut StatusFn<'_>,
) -> Result<PathBuf, AttemptError> {
    let mut part = PartialFile::open(path, download)?;
    // The file is already complete if a previous process was killed between the last byte and the
    // rename.
    if let Some(sha256) = download.listed.sha256.as_deref().filter(|s| is_bare_name(s))
        && download.listed.size == Some(part.len)
    {
        part.verify(Some(sha256), download.listed)?;
        return part.rename(&download.blobs.join(sha256));
    }
    let response = client.get(download.url, part.len).map_err(|e| match e {
        HttpError::Unreachable(what) => {
            AttemptError::Broken(format!("the hub is not responding ({what})"))
        }
        protocol => Failure::Http(protocol).into(),
    })?;
    match response.status {
        206 if range_start(&response) == Some(part.len) => {}
        200 => part.restart()?,
        206 | 416 => {
            part.restart()?;
            return Err(AttemptError::Broken("the server sent a different byte range".into()));
        }
        _ => return Err(Failure::Status(Box::new(response)).into()),
    }
    let etag = etag(&response).ok_or_else(|| damaged("the hub sent no usable ETag".into()))?;
    let sha256 = expected_sha256(download.listed, &etag).map_err(damaged)?;
    let blob = download.blobs.join(&etag);
    if !blob.exists() {
        let expected = expected_len(&response, download.listed, part.len);
        part.receive(response, expected, download.limit, status)?;
        part.verify(sha256.as_deref(), download.listed)?;
        part.rename(&blob)?;
    }
    Ok(blob)
}

fn damaged(what: String) -> AttemptError {
    Failure::Damaged(what).into()
}

/// The part of a file received so far.
struct PartialFile {
    path: PathBuf,
    file: File,
    len: u64,
    sha256: Sha256,
    /// Git's SHA-1 hash of the file's length and bytes.
    git: Option<Sha1>,
    listed_len: Option<u64>,
}

impl PartialFile {
    /// Opens and locks the partial file, and hashes the bytes of earlier attempts.
    fn open(path: &Path, download: &Download<'_>) -> Result<Self, AttemptError> {
        let io = |e| AttemptError::Fatal(Failure::Io(path.into(), e));
        fs::create_dir_all(download.blobs).map_err(io)?;
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(io)?;
        file.lock().map_err(io)?;
        let mut part = Self {
            path: path.into(),
            file,
            len: 0,
            sha256: Sha256::new(),
            git: None,
            listed_len: download.listed.size,
        };
        part.reset_hashes();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = part.file.read(&mut buffer).map_err(io)?;
            if n == 0 {
                return Ok(part);
            }
            part.hash(&buffer[..n]);
        }
    }

    fn reset_hashes(&mut self) {
        self.len = 0;
        self.sha256 = Sha256::new();
        self.git = self.listed_len.map(|n| Sha1::new().chain_update(format!("blob {n}\0")));
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(git) = &mut self.git {
            git.update(bytes);
        }
        self.len += bytes.len() as u64;
    }

    fn io(&self) -> impl Fn(io::Error) -> AttemptError + use<> {
        let path = self.path.clone();
        move |e| Failure::Io(path.clone(), e).into()
    }

    /// Discards the bytes received so far.
    fn restart(&mut self) -> Result<(), AttemptError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(self.io())?;
        self.reset_hashes();
        Ok(())
    }

    fn receive(
        &mut self,
        response: Response,
        expected: Option<u64>,
        limit: u64,
        status: &mut StatusFn<'_>,
    ) -> Result<(), AttemptError> {
        let too_long = || damaged(format!("is larger than {limit} bytes"));
        if expected.is_some_and(|n| n > limit) {
            return Err(too_long());
        }
        let mut body = response.body.into_reader().take((limit + 1).saturating_sub(self.len));
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = body.read(&mut buffer).map_err(|e| {
                let what = format!("the download was interrupted after {} bytes: {e}", self.len);
                AttemptError::Broken(what)
            })?;
            if n == 0 {
                break;
            }
            self.file.write_all(&buffer[..n]).map_err(self.io())?;
            self.hash(&buffer[..n]);
            status(Status::Bytes { done: self.len, total: expected.unwrap_or(0) });
        }
        if self.len > limit {
            return Err(too_long());
        }
        match expected {
            Some(n) if self.len < n => {
                Err(AttemptError::Broken(format!("received only {} of {n} bytes", self.len)))
            }
            Some(n) if self.len > n => {
                self.restart()?;
                Err(damaged(format!("received more than the expected {n} bytes; try again")))
            }
            _ => Ok(()),
        }
    }

    /// Renames the complete file to its final name.
    fn rename(&self, blob: &Path) -> Result<PathBuf, AttemptError> {
        self.file.sync_all().map_err(self.io())?;
        fs::rename(&self.path, blob).map_err(self.io())?;
        Ok(blob.into())
    }

    /// Verifies the hash, and removes the file on a mismatch.
    fn verify(&mut self, sha256: Option<&str>, listed: &RemoteFile) -> Result<(), AttemptError> {
        let actual = hex(&self.sha256.clone().finalize());
        let git = self.git.clone().map(|git| hex(&git.finalize()));
        let wrong = match (sha256, &listed.git, git) {
            (Some(sha256), ..) if !sha256.eq_ignore_ascii_case(&actual) => {
                format!("SHA-256 is {actual}, expected {sha256}")
            }
            (None, Some(listed), Some(git)) if !listed.eq_ignore_ascii_case(&git) => {
                format!("its Git hash is {git}, expected {listed}")
            }
            _ => return Ok(()),
        };
        fs::remove_file(&self.path).map_err(self.io())?;
        Err(damaged(format!("{wrong}; try again")))
    }
}

/// The ETag, which names the file's contents. For a large file, the hub sends it with the redirect,
/// before the server that stores the file responds.
fn etag(response: &Response) -> Option<String> {
    let header = |name| response.first.get(name).and_then(|v| v.to_str().ok());
    let raw = header("x-linked-etag").or_else(|| header("etag"))?;
    let etag = raw.trim_start_matches("W/").trim_matches('"');
    is_bare_name(etag).then(|| etag.to_owned())
}

/// The SHA-256 according to the file list or the response.
fn expected_sha256(listed: &RemoteFile, etag: &str) -> Result<Option<String>, String> {
    let is_sha256 = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
    match &listed.sha256 {
        Some(sha256) if is_sha256 && !sha256.eq_ignore_ascii_case(etag) => Err(format!(
            "SHA-256 is {sha256} in the hub's file list, but {etag} in its response; try again"
        )),
        Some(sha256) => Ok(Some(sha256.clone())),
        None => Ok(is_sha256.then(|| etag.to_owned())),
    }
}

fn expected_len(response: &Response, listed: &RemoteFile, received: u64) -> Option<u64> {
    let number = |headers: &ureq::http::HeaderMap, name| {
        headers.get(name)?.to_str().ok()?.parse::<u64>().ok()
    };
    listed
        .size
        .or_else(|| number(&response.first, "x-linked-size"))
        .or_else(|| number(&response.last, "content-length")?.checked_add(received))
}

/// Position of the first byte of a partial response.
fn range_start(response: &Response) -> Option<u64> {
    let range = response.last.get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
