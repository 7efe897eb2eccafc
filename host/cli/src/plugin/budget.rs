//! The options for the budget of a plugin that runs locally, like `budget` in a node's `[[plugin]]` section.

use bytesize::ByteSize;
use clap::Args;
use std::time::Duration;
use switchyard_plugin::{Budget, BudgetConfig};

#[derive(Args)]
pub(super) struct BudgetArgs {
    /// Maximum time of one call [default: 10ms]
    #[arg(long, value_name = "TIME", value_parser = switchyard_process::unit::parse_duration)]
    budget_call: Option<Duration>,
    /// Maximum memory of one instance [default: 16MiB]
    #[arg(long, value_name = "SIZE")]
    budget_memory: Option<ByteSize>,
    /// Maximum memory of the plugin's state [default: 4MiB]
    #[arg(long, value_name = "SIZE")]
    budget_state: Option<ByteSize>,
}

impl BudgetArgs {
    /// The budget as a `[[plugin]]` section has it.
    pub(super) fn config(&self) -> BudgetConfig {
        let Budget { call, memory, calls, state, instances } = self.budget();
        BudgetConfig { call, memory, calls, state, instances }
    }

    pub(super) fn budget(&self) -> Budget {
        let default = Budget::default();
        Budget {
            call: self.budget_call.unwrap_or(default.call),
            memory: self.budget_memory.map_or(default.memory, |size| size.as_u64() as usize),
            state: self.budget_state.map_or(default.state, |size| size.as_u64() as usize),
            ..default
        }
    }
}
