//! `switchyard plugin wit`: prints the plugin contract that this program was built with.

use crate::output::print_line;

/// The contract, in WIT.
pub(super) const CONTRACT: &str = include_str!("../../../../sdk/wit/plugin.wit");

pub(super) fn run() -> anyhow::Result<()> {
    Ok(CONTRACT.lines().try_for_each(|line| print_line!("{line}"))?)
}
