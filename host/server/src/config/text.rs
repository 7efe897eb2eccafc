//! The text of a configuration as its file has it, before anybody understands it.

use super::{Config, Environment};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};
use switchyard_process::file::{self, FileError, UnusableFile};

/// Bytes of a configuration. One with ten thousand keys has two million.
const LARGEST: u64 = 16 << 20;

pub struct Text {
    file: PathBuf,
    text: String,
    /// What it came from that is no regular file.
    kind: Option<&'static str>,
}

impl Text {
    /// What a node starts with may come from anything that can be read, also from a pipe, which has it once.
    pub fn first(file: &Path) -> Result<Self, UnusableFile> {
        let kind = fs::metadata(file).ok().and_then(|found| file::special_kind(found.file_type()));
        if kind.is_none() {
            return Self::again(file);
        }
        let read = File::open(file).map_err(FileError::from);
        let read = read.and_then(|opened| file::read_at_most(&opened, LARGEST));
        Self::new(file, read, kind)
    }

    /// What a node that runs reads again is a regular file, whole as it was at one moment.
    pub fn again(file: &Path) -> Result<Self, UnusableFile> {
        Self::new(file, file::read(file, LARGEST), None)
    }

    fn new(
        file: &Path,
        read: Result<Vec<u8>, FileError>,
        kind: Option<&'static str>,
    ) -> Result<Self, UnusableFile> {
        let text = read.and_then(file::decode_utf8).map_err(|why| UnusableFile::new(file.display(), &why))?;
        Ok(Self { file: file.to_owned(), text, kind })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it says nothing at all, beside comments.
    pub fn is_empty(&self) -> bool {
        toml::from_str::<toml::Table>(&self.text).is_ok_and(|table| table.is_empty())
    }

    /// What it came from, where that is no regular file and has it only once.
    pub fn kind(&self) -> Option<&'static str> {
        self.kind
    }

    /// Another for each text.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }

    pub fn config(&self, environment: &Environment) -> Result<Config, String> {
        let mut config = Config::read(&self.text, &self.file, environment)?;
        config.resolve(self.file.parent().unwrap_or(Path::new("")));
        Ok(config)
    }
}
