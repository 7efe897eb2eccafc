//! The text of a configuration file, before it is parsed. Does not know what it means.

use super::{Config, ConfigError, Environment};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};
use switchyard_process::file::{self, FileError, UnusableFile};

/// Maximum size of a configuration file, in bytes. One with ten thousand keys takes about two million.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// A configuration file that was read.
pub struct ConfigFile {
    path: PathBuf,
    text: String,
    /// What it is if it is not a regular file, such as `a pipe`.
    special_kind: Option<&'static str>,
}

impl ConfigFile {
    /// Reads a file for the start of a node: a regular file, or anything else that can be read. A pipe can be
    /// read only once. Blocks, for a pipe until its writer closes it.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, has more than 16 MiB, or is not valid UTF-8.
    pub fn open(path: &Path) -> Result<Self, UnusableFile> {
        let special_kind = fs::metadata(path).ok().and_then(|found| file::special_kind(found.file_type()));
        if special_kind.is_none() {
            return Self::reopen(path);
        }
        let bytes = File::open(path).map_err(FileError::from);
        let bytes = bytes.and_then(|opened| file::read_at_most(&opened, MAX_FILE_BYTES));
        Self::decode(path, bytes, special_kind)
    }

    /// Reads a regular file again, as it was at one moment. Blocks.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open), and if it is not a regular file.
    pub fn reopen(path: &Path) -> Result<Self, UnusableFile> {
        Self::decode(path, file::read(path, MAX_FILE_BYTES), None)
    }

    fn decode(
        path: &Path,
        bytes: Result<Vec<u8>, FileError>,
        special_kind: Option<&'static str>,
    ) -> Result<Self, UnusableFile> {
        let text = bytes.and_then(file::decode_utf8);
        let text = text.map_err(|error| UnusableFile::new(path.display(), &error))?;
        Ok(Self { path: path.to_owned(), text, special_kind })
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is nothing in it except comments.
    pub fn is_empty(&self) -> bool {
        toml::from_str::<toml::Table>(&self.text).is_ok_and(|table| table.is_empty())
    }

    /// What it is if it is not a regular file, such as `a pipe`: it cannot be read again.
    pub fn special_kind(&self) -> Option<&'static str> {
        self.special_kind
    }

    /// SHA-256 of the text.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }

    /// Parses and checks the text, with the overrides of the environment. Paths in it are resolved relative
    /// to the folder of the file.
    ///
    /// # Errors
    ///
    /// Fails if the text or a variable is invalid.
    pub fn parse(&self, environment: &Environment) -> Result<Config, ConfigError> {
        let mut config = Config::parse(&self.text, &self.path, environment)?;
        config.resolve_paths(self.path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }
}
