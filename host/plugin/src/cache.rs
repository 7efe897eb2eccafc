//! Compiled plugins on disk, so that the next start need not compile them: a private folder of this node's own.
//!
//! What is in there is run as it is. So nobody else may write to it, and whatever is not exactly what was put there
//! is compiled anew.

use super::engine::uncompilable;
use super::load::LoadFault;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};
use wasmtime::{Engine, component::Component};

/// Artefacts that are kept, some hundred KiB each; those that were not used for longest go.
const KEPT: usize = 64;

/// Bytes before an artefact: its SHA-256.
const SEAL: usize = 32;

/// May others write to it, by group or at all?
const FOREIGN: u32 = 0o022;

/// `[cache]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Without one nothing is kept.
    pub folder: Option<PathBuf>,
}

impl CacheConfig {
    /// Makes the folder if it is not there. Where it cannot be written to, plugins are compiled at each start; an error is one
    /// that others could write to.
    pub fn open(&self) -> Result<Option<Cache>, String> {
        let Some(folder) = &self.folder else { return Ok(None) };
        match Cache::open(folder) {
            Ok(cache) => Ok(Some(cache)),
            Err(Closed::Unsafe(why)) => Err(why),
            Err(Closed::Unwritable(error)) => {
                let folder = folder.display();
                tracing::warn!(%error, "cache.folder: {folder} cannot be written to; compiled plugins are not kept");
                Ok(None)
            }
        }
    }

    /// Whether [`Self::open`] would refuse it, as far as this can be seen without making anything, and as
    /// whichever user.
    pub fn check(&self) -> Result<(), String> {
        match self.folder.as_deref().map(|folder| (folder, fs::metadata(folder))) {
            Some((folder, Ok(metadata))) => is_private(folder, &metadata),
            _ => Ok(()),
        }
    }
}

/// Why a folder holds no cache.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// Others could put code there that the node would run.
    #[error("{0}")]
    Unsafe(String),
    #[error("{0}")]
    Unwritable(#[from] io::Error),
}

#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Whom the folder and all in it belong to: the user that this process is.
    owner: u32,
}

impl Cache {
    /// A folder that others can write to is refused: what they put there would be run in the node.
    pub fn open(folder: &Path) -> Result<Self, Closed> {
        let name = folder.display();
        // What is there already is looked at first, whatever may be done with it.
        if let Ok(metadata) = fs::metadata(folder) {
            is_private(folder, &metadata).map_err(Closed::Unsafe)?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let metadata = fs::metadata(folder)?;
        is_private(folder, &metadata).map_err(Closed::Unsafe)?;
        // Who this process is shows by a file that it makes.
        let probe = folder.join(fresh("probe")?);
        let made = create(&probe).and_then(|file| file.metadata());
        fs::remove_file(&probe).ok();
        let owner = made?.uid();
        if metadata.uid() != owner {
            return Err(Closed::Unsafe(format!(
                "cache.folder: {name} belongs to the user {}, and this node is the user {owner}: give the node a \
                 folder of its own",
                metadata.uid()
            )));
        }
        Ok(Self { folder: folder.to_owned(), owner })
    }

    /// A file compiled: as it was kept, or anew.
    pub fn component(
        &self,
        engine: &Engine,
        file: &[u8],
        compile: impl FnOnce() -> Result<Vec<u8>, LoadFault>,
    ) -> Result<Component, LoadFault> {
        let key = key(engine, file);
        if let Some(component) = self.read(engine, &key) {
            return Ok(component);
        }
        let artefact = compile()?;
        let component = revive(engine, &artefact).map_err(uncompilable)?;
        match self.write(&key, &artefact) {
            Ok(()) => tracing::debug!(key, "a compiled plugin is kept"),
            Err(error) => {
                let folder = self.folder.display();
                tracing::warn!(%error, "cache.folder: {folder}: the compiled plugin is not kept");
            }
        }
        Ok(component)
    }

    fn read(&self, engine: &Engine, key: &str) -> Option<Component> {
        let mut file = File::open(self.folder.join(key)).ok()?;
        let metadata = file.metadata().ok()?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes).ok()?;
        let (found, artefact) = bytes.split_at_checked(SEAL)?;
        // The folder may have been replaced since it was looked at: only this user makes files of this user.
        let ours = metadata.uid() == self.owner && metadata.mode() & FOREIGN == 0;
        if !ours || found != seal(key, artefact) {
            tracing::warn!(
                key,
                "cache.folder: a compiled plugin is damaged or not this node's; it is compiled anew"
            );
            return None;
        }
        let read = revive(engine, artefact);
        match &read {
            // Used now: the others go first.
            Ok(_) => drop(file.set_modified(SystemTime::now())),
            Err(error) => {
                tracing::warn!(key, "cache.folder: a compiled plugin is compiled anew: {error:#}")
            }
        }
        read.ok()
    }

    /// In one step, so that nobody reads half of it.
    fn write(&self, key: &str, artefact: &[u8]) -> io::Result<()> {
        let half = self.folder.join(fresh(key)?);
        let write = |mut file: File| {
            file.write_all(&seal(key, artefact))?;
            file.write_all(artefact)
        };
        let written = create(&half).and_then(write).and_then(|()| fs::rename(&half, self.folder.join(key)));
        if written.is_err() {
            fs::remove_file(&half).ok();
        }
        written.and_then(|()| self.prune())
    }

    /// Leaves what it did not put there itself.
    fn prune(&self) -> io::Result<()> {
        let ours = |name: &str| name.len() > 64 && name.as_bytes()[..64].iter().all(u8::is_ascii_hexdigit);
        let mut files = vec![];
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(ours) {
                files.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        files.sort();
        let most = files.len().saturating_sub(KEPT);
        files.iter().take(most).try_for_each(|(_, file)| fs::remove_file(file))
    }
}

fn is_private(folder: &Path, metadata: &Metadata) -> Result<(), String> {
    let (name, mode) = (folder.display(), metadata.mode() & 0o7777);
    if !metadata.is_dir() {
        return Err(format!("cache.folder: {name} is no folder"));
    }
    match mode & FOREIGN {
        0 => Ok(()),
        _ => Err(format!(
            "cache.folder: {name} has the mode {mode:04o}, so that other users may put code there that the node \
             would run: `chmod 700` it, or name another folder"
        )),
    }
}

/// A new file that is this user's alone.
fn create(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)
}

/// A name that nothing else has.
fn fresh(name: &str) -> io::Result<String> {
    let random = getrandom::u64().map_err(io::Error::other)?;
    Ok(format!("{name}.{random:016x}"))
}

/// The name of an artefact: what was compiled, and by which compiler with which settings.
fn key(engine: &Engine, bytes: &[u8]) -> String {
    let mut settings = Sink(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut settings);
    let settings = hex(&settings.0.finalize());
    format!("{}-{}", hex(&Sha256::digest(bytes)), &settings[..32])
}

/// Also of the name: an artefact under another's name is a damaged one.
fn seal(key: &str, artefact: &[u8]) -> [u8; SEAL] {
    Sha256::new().chain_update(key).chain_update(artefact).finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The same from process to process, which is not promised of the standard library's.
struct Sink(Sha256);

impl Hasher for Sink {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        u64::from_le_bytes(digest[..8].try_into().expect("eight of them"))
    }
}

/// Machine code that was compiled just now, or is read from the folder.
#[expect(
    unsafe_code,
    reason = "an artefact is machine code: only what this program compiled is read, from a pipe of its own process or \
              from the node's own private folder, and unchanged"
)]
pub(super) fn revive(engine: &Engine, artefact: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: either `Compiler::compile` gave it just now, which is this program, here or at the other end of a pipe that
    // nobody else has; or `Cache::read` found the file to be of this user, for nobody else to write, and its contents to be
    // what was compiled then. That they are of this engine wasmtime checks itself.
    unsafe { Component::deserialize(engine, artefact) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A component that holds nothing, and one that holds nothing and a name.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
    const NAMED: &[u8] = b"\0asm\x0d\0\x01\0\0\x02\x01n";

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("deep/cache")).unwrap();
        (folder, cache)
    }

    fn keep(cache: &Cache, engine: &Engine) {
        let compile = || engine.precompile_component(EMPTY).map_err(uncompilable);
        cache.component(engine, EMPTY, compile).unwrap();
    }

    #[test]
    fn the_folder_is_made_private_and_one_that_others_write_to_is_refused() {
        let (_folder, cache) = cache();
        let mode = |mode| fs::set_permissions(&cache.folder, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(fs::metadata(&cache.folder).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 0, "what was tried is gone");
        for wrong in [0o777, 0o770, 0o702] {
            mode(wrong);
            let config = CacheConfig { folder: Some(cache.folder.clone()) };
            for error in [config.open().unwrap_err(), config.check().unwrap_err()] {
                assert!(error.contains(&format!("has the mode {wrong:04o}")), "{error}");
                assert!(error.contains("deep/cache") && error.contains("chmod 700"), "{error}");
            }
        }
        mode(0o755);
        assert!(Cache::open(&cache.folder).is_ok(), "who only reads does no harm");
        let file = cache.folder.join("file");
        fs::write(&file, "").unwrap();
        assert!(Cache::open(&file).is_err());
    }

    #[test]
    fn what_was_kept_is_read_and_what_is_damaged_is_compiled_anew() {
        let (_folder, cache) = cache();
        let engine = Engine::default();
        keep(&cache, &engine);
        let (name, other) = (key(&engine, EMPTY), key(&engine, NAMED));
        let file = cache.folder.join(&name);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert!(cache.read(&engine, &name).is_some());
        assert!(cache.read(&engine, &other).is_none());

        let good = fs::read(&file).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for (what, damaged) in [("a bit", &flipped[..]), ("the end", &good[..good.len() - 1]), ("all", &[])] {
            fs::write(&file, damaged).unwrap();
            assert!(cache.read(&engine, &name).is_none(), "{what}");
            keep(&cache, &engine);
            assert!(fs::read(&file).unwrap() == good, "{what}: it was written again");
        }
        fs::copy(&file, cache.folder.join(&other)).unwrap();
        assert!(cache.read(&engine, &other).is_none(), "it was kept under another name");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(cache.read(&engine, &name).is_none(), "others may have written to it");
    }

    #[test]
    fn another_engine_has_another_key() {
        let fuel = Engine::new(wasmtime::Config::new().consume_fuel(true)).unwrap();
        let (plain, again) = (Engine::default(), Engine::default());
        assert_eq!(key(&plain, EMPTY), key(&again, EMPTY));
        assert_ne!(key(&plain, EMPTY), key(&fuel, EMPTY));
        assert_ne!(key(&plain, EMPTY), key(&plain, NAMED));
    }

    #[test]
    fn what_was_not_used_for_longest_goes() {
        let (_folder, cache) = cache();
        let name = |n: usize| format!("{n:064x}-0");
        for n in 0..KEPT {
            cache.write(&name(n), b"artefact").unwrap();
            let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n as u64);
            File::open(cache.folder.join(name(n))).unwrap().set_modified(old).unwrap();
        }
        fs::write(cache.folder.join("README"), "not ours").unwrap();
        File::open(cache.folder.join(name(0))).unwrap().set_modified(SystemTime::now()).unwrap();
        cache.write(&name(KEPT), b"artefact").unwrap();
        let left = |n: usize| cache.folder.join(name(n)).exists();
        assert!(left(0) && !left(1) && left(2) && left(KEPT), "the first was used, the second was not");
        assert!(cache.folder.join("README").exists());
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), KEPT + 1);
    }
}
