//! `switchyard plugin keygen` and `switchyard plugin sign`: the files of those who vouch for plugins.

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
    /// Where the private key goes; a file that is there already is left alone
    file: PathBuf,
}

#[derive(Args)]
pub(crate) struct SignArgs {
    /// A core module or a component
    file: PathBuf,
    /// What `keygen` made
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
}

pub(super) fn keygen(args: KeygenArgs) -> anyhow::Result<()> {
    let name = args.file.display();
    let key = SecretKey::generate().context("the system has no random numbers")?;
    // Nobody else may read it, from the first moment.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file);
    let mut file = match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{name} is there already, and may be a key in use: choose another name, or move it away")
        }
        made => made.with_context(|| name.to_string())?,
    };
    writeln!(file, "{}", key.reveal()).and_then(|()| file.sync_all()).with_context(|| name.to_string())?;
    let public = key.public();
    print_line!("{public}")?;
    print_line!("")?;
    print_line!(
        "{name} holds the private key: keep it where plugins are signed, and off the nodes. Their configuration gets the \
         public one:"
    )?;
    print_line!("")?;
    print_line!("[signatures]")?;
    print_line!("keys = [\"{public}\"]")?;
    Ok(())
}

pub(super) fn sign(args: SignArgs) -> anyhow::Result<()> {
    let (file, key_file) = (args.file.display(), args.key_file.display());
    let text = read_input(&args.key_file).with_context(|| key_file.to_string())?;
    let key = SecretKey::parse(&text).map_err(|error| anyhow::anyhow!("{key_file}: {error}"))?;
    let bytes = fs::read(&args.file).with_context(|| file.to_string())?;
    let target = signature_file(&args.file);
    let name = target.display();
    // In one step: a node that watches it never reads half of it.
    let half = target.with_extension("sig.new");
    let written = fs::write(&half, key.sign(&bytes) + "\n").and_then(|()| fs::rename(&half, &target));
    written.with_context(|| name.to_string())?;
    print_line!("{name} vouches for {file}, with {}", key.public())?;
    Ok(())
}
