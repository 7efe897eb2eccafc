//! `switchyard plugin keygen` and `switchyard plugin sign`: the files with keys and signatures of plugins.

use crate::output::print_line;
use anyhow::{Context, bail};
use clap::Args;
use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};
use switchyard_plugin::{SecretKey, signature_file};
use switchyard_process::file::read_input;

#[derive(Args)]
pub(crate) struct KeygenArgs {
    /// The file to write the private key to; an existing file is never overwritten
    file: PathBuf,
}

#[derive(Args)]
pub(crate) struct SignArgs {
    /// The plugin: a WebAssembly core module or a component
    file: PathBuf,
    /// The private key that `plugin keygen` wrote
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
}

pub(super) fn keygen(args: KeygenArgs) -> anyhow::Result<()> {
    let name = args.file.display();
    let key = SecretKey::generate().context("cannot get random numbers from the system")?;
    // Readable only by its owner from the start.
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file);
    let mut file = match created {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!(
                "FILE: {name} already exists, and may be a key in use; choose another name, or move it away"
            )
        }
        created => created.with_context(|| name.to_string())?,
    };
    writeln!(file, "{}", key.reveal()).and_then(|()| file.sync_all()).with_context(|| name.to_string())?;
    let public = key.public();
    print_line!("{public}")?;
    print_line!("")?;
    print_line!(
        "{name} contains the private key. Keep it where plugins are signed, and never on a node. Add the public key to the \
         configuration of the nodes:"
    )?;
    print_line!("")?;
    print_line!("[signatures]")?;
    print_line!("keys = [\"{public}\"]")?;
    Ok(())
}

pub(super) fn sign(args: SignArgs) -> anyhow::Result<()> {
    let (file, key_file) = (args.file.display(), args.key_file.display());
    let text = read_input(&args.key_file).with_context(|| format!("--key-file {key_file}"))?;
    let key = SecretKey::parse(&text).map_err(|error| anyhow::anyhow!("--key-file {key_file}: {error}"))?;
    let bytes = fs::read(&args.file).with_context(|| file.to_string())?;
    let target = signature_file(&args.file);
    let name = target.display();
    // Renamed into place, so that a node that watches the file never reads half of it.
    let temporary = target.with_extension("sig.new");
    let written =
        fs::write(&temporary, key.sign(&bytes) + "\n").and_then(|()| fs::rename(&temporary, &target));
    written.with_context(|| name.to_string())?;
    print_line!("{name} is the signature of {file} by {}", key.public())?;
    Ok(())
}
