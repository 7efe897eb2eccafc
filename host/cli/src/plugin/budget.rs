//! What a plugin may use while its author tries it, as `budget` of a `[[plugin]]` says it for a node.

use bytesize::ByteSize;
use clap::Args;
use std::time::Duration;
use switchyard_plugin::Budget;

#[derive(Args)]
pub(super) struct BudgetArgs {
    /// What one call may take [default: 10ms]
    #[arg(long, value_name = "TIME", value_parser = switchyard_process::unit::parse_duration)]
    budget_call: Option<Duration>,
    /// What one instance may hold [default: 16MiB]
    #[arg(long, value_name = "SIZE")]
    budget_memory: Option<ByteSize>,
}

impl BudgetArgs {
    pub(super) fn read(&self) -> Budget {
        let default = Budget::default();
        Budget {
            call: self.budget_call.unwrap_or(default.call),
            memory: self.budget_memory.map_or(default.memory, |size| size.as_u64() as usize),
            ..default
        }
    }
}
