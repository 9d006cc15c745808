//! One file from the hub: taken up again where a connection broke, checked before it has a name.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::RemoteFile;
use crate::fetch::http::{Client, HttpError, Reply};
use crate::fetch::{Report, Step, hex, is_bare_name};

/// Attempts in a row that bring nothing before giving up.
const ATTEMPTS: u32 = 4;
/// Before the second attempt; doubles with each that follows.
const PAUSE: Duration = Duration::from_millis(250);

/// What to download and where to.
pub(super) struct Wanted<'a> {
    pub(super) url: &'a str,
    /// Folder of the blobs.
    pub(super) blobs: &'a Path,
    /// Name, in that folder, of what has arrived so far. The same for the same content.
    pub(super) part: &'a str,
    pub(super) promised: &'a RemoteFile,
    /// Longest length that is credible.
    pub(super) limit: u64,
}

/// Why there is no file.
pub(super) enum Failed {
    Io(PathBuf, io::Error),
    Http(HttpError),
    /// The hub refused.
    Status(Box<Reply>),
    Damaged(String),
}

/// One attempt's end.
enum Attempt {
    /// The connection broke: another attempt may bring the rest.
    Broken(String),
    Failed(Failed),
}

impl From<Failed> for Attempt {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

/// Brings the file here, in as many attempts as it takes, and returns its blob.
pub(super) fn fetch(
    client: &Client,
    wanted: &Wanted<'_>,
    report: &mut Report<'_>,
) -> Result<PathBuf, Failed> {
    let part = wanted.blobs.join(wanted.part);
    let arrived = || fs::metadata(&part).map_or(0, |m| m.len());
    let mut in_vain = 0;
    loop {
        let before = arrived();
        let what = match attempt(client, wanted, &part, report) {
            Ok(blob) => return Ok(blob),
            Err(Attempt::Failed(failed)) => return Err(failed),
            Err(Attempt::Broken(what)) => what,
        };
        in_vain = if arrived() > before { 0 } else { in_vain + 1 };
        if in_vain == ATTEMPTS {
            let kept = "what has arrived is kept, repeat to go on from there";
            return Err(Failed::Damaged(format!("{what}; {kept}")));
        }
        report(Step::Say(&format!("{what}; trying again")));
        std::thread::sleep(PAUSE * 2u32.pow(in_vain));
    }
}

fn attempt(
    client: &Client,
    wanted: &Wanted<'_>,
    path: &Path,
    report: &mut Report<'_>,
) -> Result<PathBuf, Attempt> {
    let mut part = Part::open(path, wanted)?;
    // Killed between the last byte and the name.
    if let Some(sha256) = wanted.promised.sha256.as_deref().filter(|s| is_bare_name(s))
        && wanted.promised.size == Some(part.len)
    {
        part.check(Some(sha256), wanted.promised)?;
        return part.name(&wanted.blobs.join(sha256));
    }
    let reply = client.get(wanted.url, part.len).map_err(|e| match e {
        HttpError::Unreachable(what) => {
            Attempt::Broken(format!("the hub does not answer ({what})"))
        }
        protocol => Failed::Http(protocol).into(),
    })?;
    match reply.status {
        206 if range_start(&reply) == Some(part.len) => {}
        200 => part.restart()?,
        206 | 416 => {
            part.restart()?;
            return Err(Attempt::Broken("the server sent another part than was asked for".into()));
        }
        _ => return Err(Failed::Status(Box::new(reply)).into()),
    }
    let etag = etag(&reply).ok_or_else(|| damaged("the hub sent no usable ETag".into()))?;
    let sha256 = promised_sha256(wanted.promised, &etag).map_err(damaged)?;
    let blob = wanted.blobs.join(&etag);
    if !blob.exists() {
        let expected = expected_len(&reply, wanted.promised, part.len);
        part.receive(reply, expected, wanted.limit, report)?;
        part.check(sha256.as_deref(), wanted.promised)?;
        part.name(&blob)?;
    }
    Ok(blob)
}

fn damaged(what: String) -> Attempt {
    Failed::Damaged(what).into()
}

/// What has arrived of a file.
struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    sha256: Sha256,
    /// Git's name of a file is the SHA-1 of its length and its bytes.
    git: Option<Sha1>,
    promised_len: Option<u64>,
}

impl Part {
    /// Opens what is there, and hashes it. One process at a time works on it.
    fn open(path: &Path, wanted: &Wanted<'_>) -> Result<Self, Attempt> {
        let io = |e| Attempt::Failed(Failed::Io(path.into(), e));
        fs::create_dir_all(wanted.blobs).map_err(io)?;
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
            promised_len: wanted.promised.size,
        };
        part.begin();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = part.file.read(&mut buffer).map_err(io)?;
            if n == 0 {
                return Ok(part);
            }
            part.hash(&buffer[..n]);
        }
    }

    fn begin(&mut self) {
        self.len = 0;
        self.sha256 = Sha256::new();
        self.git = self.promised_len.map(|n| Sha1::new().chain_update(format!("blob {n}\0")));
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(git) = &mut self.git {
            git.update(bytes);
        }
        self.len += bytes.len() as u64;
    }

    fn io(&self) -> impl Fn(io::Error) -> Attempt + use<> {
        let path = self.path.clone();
        move |e| Failed::Io(path.clone(), e).into()
    }

    /// Forgets what has arrived.
    fn restart(&mut self) -> Result<(), Attempt> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(self.io())?;
        self.begin();
        Ok(())
    }

    fn receive(
        &mut self,
        reply: Reply,
        expected: Option<u64>,
        limit: u64,
        report: &mut Report<'_>,
    ) -> Result<(), Attempt> {
        let too_long = || damaged(format!("is larger than {limit} bytes"));
        if expected.is_some_and(|n| n > limit) {
            return Err(too_long());
        }
        let mut body = reply.body.into_reader().take((limit + 1).saturating_sub(self.len));
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = body.read(&mut buffer).map_err(|e| {
                Attempt::Broken(format!("the download broke off after {} bytes: {e}", self.len))
            })?;
            if n == 0 {
                break;
            }
            self.file.write_all(&buffer[..n]).map_err(self.io())?;
            self.hash(&buffer[..n]);
            report(Step::Progress { done: self.len, total: expected.unwrap_or(0) });
        }
        if self.len > limit {
            return Err(too_long());
        }
        match expected {
            Some(n) if self.len < n => {
                Err(Attempt::Broken(format!("{} of {n} bytes arrived", self.len)))
            }
            Some(n) if self.len > n => {
                self.restart()?;
                Err(damaged(format!("more than the promised {n} bytes arrived; repeat")))
            }
            _ => Ok(()),
        }
    }

    /// Gives a complete file its name.
    fn name(&self, blob: &Path) -> Result<PathBuf, Attempt> {
        self.file.sync_all().map_err(self.io())?;
        fs::rename(&self.path, blob).map_err(self.io())?;
        Ok(blob.into())
    }

    /// Compares the hash; what is wrong is thrown away.
    fn check(&mut self, sha256: Option<&str>, promised: &RemoteFile) -> Result<(), Attempt> {
        let got = hex(&self.sha256.clone().finalize());
        let git = self.git.clone().map(|git| hex(&git.finalize()));
        let wrong = match (sha256, &promised.git, git) {
            (Some(sha256), ..) if !sha256.eq_ignore_ascii_case(&got) => {
                format!("SHA-256 is {got}, expected {sha256}")
            }
            (None, Some(promised), Some(git)) if !promised.eq_ignore_ascii_case(&git) => {
                format!("its Git hash is {git}, expected {promised}")
            }
            _ => return Ok(()),
        };
        fs::remove_file(&self.path).map_err(self.io())?;
        Err(damaged(format!("{wrong}; repeat")))
    }
}

/// The name of a file's contents. For a large file it is given on the hub's own answer, before
/// the redirect to where the bytes are.
fn etag(reply: &Reply) -> Option<String> {
    let header = |name| reply.first.get(name).and_then(|v| v.to_str().ok());
    let raw = header("x-linked-etag").or_else(|| header("etag"))?;
    let etag = raw.trim_start_matches("W/").trim_matches('"');
    is_bare_name(etag).then(|| etag.to_owned())
}

/// The SHA-256 that the file list or the answer promises.
fn promised_sha256(file: &RemoteFile, etag: &str) -> Result<Option<String>, String> {
    let is_sha256 = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
    match &file.sha256 {
        Some(listed) if is_sha256 && !listed.eq_ignore_ascii_case(etag) => {
            Err(format!("the hub's file list promises SHA-256 {listed}, its answer {etag}; repeat"))
        }
        Some(listed) => Ok(Some(listed.clone())),
        None => Ok(is_sha256.then(|| etag.to_owned())),
    }
}

fn expected_len(reply: &Reply, promised: &RemoteFile, had: u64) -> Option<u64> {
    let number = |headers: &ureq::http::HeaderMap, name| {
        headers.get(name)?.to_str().ok()?.parse::<u64>().ok()
    };
    promised
        .size
        .or_else(|| number(&reply.first, "x-linked-size"))
        .or_else(|| number(&reply.last, "content-length")?.checked_add(had))
}

/// Where the bytes of a partial answer begin.
fn range_start(reply: &Reply) -> Option<u64> {
    let range = reply.last.get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
