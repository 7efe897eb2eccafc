//! `switchyard plugin new`: writes a project that builds, with an example plugin to change. What is in it, by
//! language, is in `scaffold/`.

mod languages;
mod rust;
mod vendor;

use self::rust::Sdk;
use crate::output::{InvalidArguments, print_line};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(Args)]
pub(crate) struct NewArgs {
    /// The name of the project and its folder: a letter, then lowercase letters, digits and -
    #[arg(value_parser = parse_name)]
    name: String,
    /// The language of the plugin
    #[arg(long, value_enum, default_value = "rust")]
    lang: Language,
    /// Copy the SDK that this program was built with into the project, so that it builds without the
    /// repository
    #[arg(long)]
    vendor: bool,
    /// Use the SDK in this folder instead of the one on GitHub
    #[arg(long, value_name = "FOLDER", conflicts_with = "vendor")]
    sdk: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Language {
    Rust,
    C,
    Js,
    Python,
}

/// The files of a new project, and how to go on.
pub(super) struct Project {
    /// What the plugin does, and in which file, as the rest of a line.
    summary: &'static str,
    /// By path in the project.
    files: Vec<(String, Vec<u8>)>,
    /// What to type in the project's folder, one after the other.
    commands: Vec<String>,
}

const MAX_NAME_LENGTH: usize = 64;

fn parse_name(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    // A name in WIT has letters or digits between two hyphens, and each part begins with a letter.
    let is_valid = text.split('-').all(|part| part.starts_with(|c: char| c.is_ascii_lowercase()))
        && text.chars().all(is_allowed)
        && text.len() <= MAX_NAME_LENGTH;
    match is_valid {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "expected words of a lowercase letter, then lowercase letters and digits, with - between them, at most \
             {MAX_NAME_LENGTH} characters in all, such as my-rooms"
        )),
    }
}

pub(super) fn run(args: NewArgs) -> anyhow::Result<()> {
    let name = &args.name;
    let project = match args.lang {
        Language::Rust => rust::project(name, &sdk(&args)?)?,
        _ if args.vendor || args.sdk.is_some() => {
            let text = "--sdk and --vendor are for --lang rust: the other languages need only the contract, which is part of \
                        every new project";
            return Err(InvalidArguments(text.to_owned()).into());
        }
        other => languages::project(name, other),
    };
    let folder = Path::new(name);
    if folder.exists() {
        bail!("NAME: {name} already exists; choose another name, or move it away");
    }
    for (file, contents) in &project.files {
        let file = folder.join(file);
        fs::create_dir_all(file.parent().expect("it is in a folder")).with_context(|| name.clone())?;
        fs::write(&file, contents).with_context(|| file.display().to_string())?;
    }
    print_line!("Created {name}: {}. Run this in its folder:", project.summary)?;
    print_line!("")?;
    project.commands.iter().try_for_each(|command| print_line!("{command}"))?;
    Ok(())
}

fn sdk(args: &NewArgs) -> anyhow::Result<Sdk> {
    let Some(folder) = &args.sdk else {
        return Ok(if args.vendor { Sdk::Vendored } else { Sdk::Published });
    };
    let folder = folder.canonicalize().with_context(|| format!("--sdk {}", folder.display()))?;
    if !folder.join("Cargo.toml").is_file() {
        bail!("--sdk {}: no Cargo.toml there; expected the folder of switchyard-sdk", folder.display());
    }
    Ok(Sdk::Folder(folder))
}
