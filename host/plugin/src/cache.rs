//! Compiled plugins on disk, so that the next start need not compile them: `[cache]`, a private folder of
//! this node.
//!
//! The files contain machine code that the node runs. Therefore nobody else may be able to write to the
//! folder, and any file that is not exactly what this node wrote is ignored, and compiled again.

use super::engine::compilation_failed;
use super::load::LoadErrorKind;
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

/// Maximum number of compiled plugins in the folder, of some hundred KiB each. The least recently used ones
/// are deleted.
const MAX_ARTEFACTS: usize = 64;

/// Length of the SHA-256 at the beginning of each file, in bytes.
const CHECKSUM_BYTES: usize = 32;

/// The mode bits that let the group or everybody write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// `[cache]` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// The folder. Without one, compiled plugins are not kept.
    pub folder: Option<PathBuf>,
}

impl CacheConfig {
    /// Opens the cache, and creates its folder if necessary. `None` if none is configured, or if the folder
    /// cannot be written to: then plugins are compiled at each start, and a warning is logged. Blocks.
    ///
    /// # Errors
    ///
    /// Fails if other users could write to the folder.
    pub fn open(&self) -> Result<Option<Cache>, CacheError> {
        let Some(folder) = &self.folder else { return Ok(None) };
        match Cache::open(folder) {
            Ok(cache) => Ok(Some(cache)),
            Err(CacheError::Unwritable(error)) => {
                let folder = folder.display();
                tracing::warn!(%error, "cache.folder: {folder} cannot be written to; compiled plugins are not kept");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Checks whether [`open`](Self::open) would fail, as far as that can be found out without creating
    /// anything, and by any user. Blocks.
    ///
    /// # Errors
    ///
    /// Fails if other users could write to the folder, or if it is a file.
    pub fn check(&self) -> Result<(), CacheError> {
        match self.folder.as_deref().map(|folder| (folder, fs::metadata(folder))) {
            Some((folder, Ok(metadata))) => check_private(folder, &metadata),
            _ => Ok(()),
        }
    }
}

/// Why a folder cannot be used as a cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It is a file.
    #[error("cache.folder: {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Other users could put code there that the node would run.
    #[error(
        "cache.folder: {} has mode {mode:04o}, so other users may put code there that the node would run: `chmod \
         700` it, or configure another folder", folder.display()
    )]
    WritableByOthers {
        /// The folder.
        folder: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It belongs to another user.
    #[error(
        "cache.folder: {} belongs to user {owner}, but this node runs as user {user}: configure a folder of its own",
        folder.display()
    )]
    OtherOwner {
        /// The folder.
        folder: PathBuf,
        /// The id of the user that owns the folder.
        owner: u32,
        /// The id of the user as which this process runs.
        user: u32,
    },
    /// It cannot be created or written to.
    #[error(transparent)]
    Unwritable(#[from] io::Error),
}

/// An open cache.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    /// The id of the user as which this process runs. The folder and all files in it must belong to it.
    owner: u32,
}

impl Cache {
    /// Opens a cache, and creates its folder if necessary. Blocks.
    ///
    /// # Errors
    ///
    /// Fails if the folder cannot be written to, or if other users could write to it: this node would run
    /// their code.
    pub fn open(folder: &Path) -> Result<Self, CacheError> {
        // An existing folder is checked first, whether or not it can be written to.
        if let Ok(metadata) = fs::metadata(folder) {
            check_private(folder, &metadata)?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let metadata = fs::metadata(folder)?;
        check_private(folder, &metadata)?;
        // The owner of a new file tells as which user this process runs.
        let probe = folder.join(unique_name("probe")?);
        let created = create(&probe).and_then(|file| file.metadata());
        fs::remove_file(&probe).ok();
        let user = created?.uid();
        let (folder, owner) = (folder.to_owned(), metadata.uid());
        if owner != user {
            return Err(CacheError::OtherOwner { folder, owner, user });
        }
        Ok(Self { folder, owner })
    }

    /// The compiled form of a file: from the cache, or else from `compile`.
    pub(super) fn component(
        &self,
        engine: &Engine,
        file: &[u8],
        compile: impl FnOnce() -> Result<Vec<u8>, LoadErrorKind>,
    ) -> Result<Component, LoadErrorKind> {
        let key = key(engine, file);
        if let Some(component) = self.read(engine, &key) {
            return Ok(component);
        }
        let artefact = compile()?;
        let component = deserialize(engine, &artefact).map_err(compilation_failed)?;
        match self.write(&key, &artefact) {
            Ok(()) => tracing::debug!(key, "compiled plugin added to the cache"),
            Err(error) => {
                let folder = self.folder.display();
                tracing::warn!(%error, "cache.folder: {folder}: the compiled plugin cannot be kept");
            }
        }
        Ok(component)
    }

    fn read(&self, engine: &Engine, key: &str) -> Option<Component> {
        let mut file = File::open(self.folder.join(key)).ok()?;
        let metadata = file.metadata().ok()?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes).ok()?;
        let (found, artefact) = bytes.split_at_checked(CHECKSUM_BYTES)?;
        // The folder may have been replaced since it was checked. But no other user can create files of this
        // user.
        let is_ours = metadata.uid() == self.owner && metadata.mode() & WRITABLE_BY_OTHERS == 0;
        if !is_ours || found != checksum(key, artefact) {
            tracing::warn!(
                key,
                "cache.folder: a compiled plugin is damaged or was not written by this node; it is compiled again"
            );
            return None;
        }
        let component = deserialize(engine, artefact);
        match &component {
            // Marks it as used, so that others are deleted first.
            Ok(_) => drop(file.set_modified(SystemTime::now())),
            Err(error) => {
                tracing::warn!(
                    key,
                    "cache.folder: a compiled plugin cannot be used and is compiled again: {error:#}"
                )
            }
        }
        component.ok()
    }

    /// Writes atomically, so that nobody reads half of a file.
    fn write(&self, key: &str, artefact: &[u8]) -> io::Result<()> {
        let temporary = self.folder.join(unique_name(key)?);
        let write = |mut file: File| {
            file.write_all(&checksum(key, artefact))?;
            file.write_all(artefact)
        };
        let written =
            create(&temporary).and_then(write).and_then(|()| fs::rename(&temporary, self.folder.join(key)));
        if written.is_err() {
            fs::remove_file(&temporary).ok();
        }
        written.and_then(|()| self.evict())
    }

    /// Deletes the least recently used files, but nothing that the cache did not write.
    fn evict(&self) -> io::Result<()> {
        let is_ours = |name: &str| name.len() > 64 && name.as_bytes()[..64].iter().all(u8::is_ascii_hexdigit);
        let mut files = vec![];
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(is_ours) {
                files.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        files.sort();
        let excess = files.len().saturating_sub(MAX_ARTEFACTS);
        files.iter().take(excess).try_for_each(|(_, file)| fs::remove_file(file))
    }
}

fn check_private(folder: &Path, metadata: &Metadata) -> Result<(), CacheError> {
    let (folder, mode) = (folder.to_owned(), metadata.mode() & 0o7777);
    if !metadata.is_dir() {
        return Err(CacheError::NotADirectory(folder));
    }
    match mode & WRITABLE_BY_OTHERS {
        0 => Ok(()),
        _ => Err(CacheError::WritableByOthers { folder, mode }),
    }
}

/// Creates a file that only this user can read and write.
fn create(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)
}

/// A file name that does not exist yet.
fn unique_name(prefix: &str) -> io::Result<String> {
    let random = getrandom::u64().map_err(io::Error::other)?;
    Ok(format!("{prefix}.{random:016x}"))
}

/// The file name of an artefact: a hash of what was compiled, and one of the compiler and its settings.
fn key(engine: &Engine, bytes: &[u8]) -> String {
    let mut settings = Sha256Hasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut settings);
    let settings = hex(&settings.0.finalize());
    format!("{}-{}", hex(&Sha256::digest(bytes)), &settings[..32])
}

/// Includes the key, so that an artefact under another one's name counts as damaged.
fn checksum(key: &str, artefact: &[u8]) -> [u8; CHECKSUM_BYTES] {
    Sha256::new().chain_update(key).chain_update(artefact).finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A hasher that gives the same result in every process. The standard library's hashers do not promise that.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        u64::from_le_bytes(digest[..8].try_into().expect("a slice of 8 bytes"))
    }
}

/// Loads machine code that was compiled just now, or read from the cache.
#[expect(
    unsafe_code,
    reason = "an artefact is machine code: only what this program compiled is loaded, unchanged, from the pipe of its \
              own child process or from the node's private folder"
)]
pub(super) fn deserialize(engine: &Engine, artefact: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the artefact is what this program compiled. Either `Compiler::compile` returned it just now:
    // from this process, or from a child process of the same program through a pipe that nobody else can
    // write to. Or `Cache::read` has checked that the file belongs to this user, that nobody else can write
    // to it, and that its checksum matches. Wasmtime itself checks that it was compiled for this engine.
    unsafe { Component::deserialize(engine, artefact) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// An empty component, and one that has only a name.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
    const NAMED: &[u8] = b"\0asm\x0d\0\x01\0\0\x02\x01n";

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("deep/cache")).unwrap();
        (folder, cache)
    }

    fn compile_cached(cache: &Cache, engine: &Engine) {
        let compile = || engine.precompile_component(EMPTY).map_err(compilation_failed);
        cache.component(engine, EMPTY, compile).unwrap();
    }

    #[test]
    fn the_folder_is_created_private_and_one_that_others_can_write_to_is_rejected() {
        let (_folder, cache) = cache();
        let mode = |mode| fs::set_permissions(&cache.folder, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(fs::metadata(&cache.folder).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 0, "the probe is deleted");
        for wrong in [0o777, 0o770, 0o702] {
            mode(wrong);
            let config = CacheConfig { folder: Some(cache.folder.clone()) };
            for error in
                [config.open().unwrap_err(), config.check().unwrap_err()].map(|error| error.to_string())
            {
                assert!(error.contains(&format!("has mode {wrong:04o}")), "{error}");
                assert!(error.contains("deep/cache") && error.contains("chmod 700"), "{error}");
            }
        }
        mode(0o755);
        assert!(Cache::open(&cache.folder).is_ok(), "others may read it");
        let file = cache.folder.join("file");
        fs::write(&file, "").unwrap();
        assert!(Cache::open(&file).is_err());
    }

    #[test]
    fn an_intact_artefact_is_read_and_a_damaged_one_is_compiled_again() {
        let (_folder, cache) = cache();
        let engine = Engine::default();
        compile_cached(&cache, &engine);
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
            compile_cached(&cache, &engine);
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
    fn the_least_recently_used_artefact_is_deleted() {
        let (_folder, cache) = cache();
        let name = |n: usize| format!("{n:064x}-0");
        for n in 0..MAX_ARTEFACTS {
            cache.write(&name(n), b"artefact").unwrap();
            let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n as u64);
            File::open(cache.folder.join(name(n))).unwrap().set_modified(old).unwrap();
        }
        fs::write(cache.folder.join("README"), "not ours").unwrap();
        File::open(cache.folder.join(name(0))).unwrap().set_modified(SystemTime::now()).unwrap();
        cache.write(&name(MAX_ARTEFACTS), b"artefact").unwrap();
        let left = |n: usize| cache.folder.join(name(n)).exists();
        assert!(
            left(0) && !left(1) && left(2) && left(MAX_ARTEFACTS),
            "the first was used recently, the second was not"
        );
        assert!(cache.folder.join("README").exists());
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), MAX_ARTEFACTS + 1);
    }
}
