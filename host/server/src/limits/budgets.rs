//! The budgets of all principals of this node. They outlive connections, so that connecting again refills nothing.
//! Takes nothing out of them.

use super::{
    LimitMode,
    budget::{Budget, BudgetRules},
};
use crate::metrics::Metrics;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Instant,
};
use switchyard_process::lock::LockExt;

/// Maximum number of budgets of principals that have neither a connection nor a call in progress. They take about
/// 500 bytes each. Those of the others exist anyway, and are bounded with the connections.
const MAX_IDLE: usize = 100_000;
/// How many idle budgets there may be after some were forgotten, so that the cost of finding them is spread over
/// many new principals.
const IDLE_TARGET: usize = MAX_IDLE / 8 * 7;

pub(crate) struct Budgets {
    rules: Arc<BudgetRules>,
    table: Mutex<Table>,
}

struct Table {
    by_principal: HashMap<Arc<str>, Arc<Budget>>,
    /// How many budgets there may be before some are forgotten.
    sweep_at: usize,
}

impl Budgets {
    pub(crate) fn new(mode: LimitMode, metrics: Metrics) -> Arc<Self> {
        let table = Table { by_principal: HashMap::new(), sweep_at: MAX_IDLE };
        Arc::new(Self { rules: Arc::new(BudgetRules { mode, metrics }), table: Mutex::new(table) })
    }

    /// The budget of a principal. Whoever holds it keeps it from being forgotten.
    pub(crate) fn of(&self, principal: &Arc<str>) -> Arc<Budget> {
        self.of_at(principal, Instant::now())
    }

    fn of_at(&self, principal: &Arc<str>, now: Instant) -> Arc<Budget> {
        let mut table = self.table.locked();
        if let Some(budget) = table.by_principal.get(principal) {
            budget.touch(now);
            return budget.clone();
        }
        if table.by_principal.len() >= table.sweep_at {
            table.sweep(now);
        }
        let budget = Arc::new(Budget::new(principal.clone(), self.rules.clone(), now));
        table.by_principal.insert(principal.clone(), budget.clone());
        budget
    }
}

impl Table {
    /// Forgets budgets that nobody holds: those that are full, which changes nothing, and if that is not enough,
    /// those that were used longest ago.
    fn sweep(&mut self, now: Instant) {
        self.by_principal.retain(|_, budget| !is_idle(budget) || !budget.is_full(now));
        let idle = self.by_principal.values().filter(|budget| is_idle(budget));
        let mut used: Vec<_> = idle.map(|budget| budget.used()).collect();
        if let Some(surplus) = used.len().checked_sub(IDLE_TARGET).filter(|surplus| *surplus > 0) {
            let (_, newest_forgotten, _) = used.select_nth_unstable(surplus - 1);
            let newest_forgotten = *newest_forgotten;
            self.by_principal.retain(|_, budget| !is_idle(budget) || budget.used() > newest_forgotten);
        }
        self.sweep_at = self.by_principal.len() + MAX_IDLE - IDLE_TARGET;
    }
}

/// Whether only the table holds a budget.
fn is_idle(budget: &Arc<Budget>) -> bool {
    Arc::strong_count(budget) == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{key::Key, limits::TierRate, rate::Rate, tier::Tier};
    use std::time::Duration;

    #[test]
    fn the_table_is_bounded_and_keeps_what_is_held_or_was_used_last() {
        let budgets = Budgets::new(LimitMode::Enforce, Metrics::default());
        let publishes = Rate { times: 1, period: Duration::from_secs(60) };
        let key = Key::detached_with("acme", Tier { publishes: Some(publishes), ..Tier::default() });
        let (start, name) = (Instant::now(), |n: usize| Arc::<str>::from(n.to_string()));
        let use_up = |n: usize, at: Instant| {
            let budget = budgets.of_at(&name(n), at);
            budget.take_at(&key, [(TierRate::Publishes, 1)], at).ok();
            budget
        };
        let held = use_up(0, start);
        for n in 1..2 * MAX_IDLE {
            use_up(n, start + Duration::from_micros(n as u64));
        }
        let (len, later) = (budgets.table.locked().by_principal.len(), start + Duration::from_secs(1));
        assert!((IDLE_TARGET..=MAX_IDLE + 1).contains(&len), "{len}");
        assert!(Arc::ptr_eq(&held, &budgets.of_at(&name(0), later)), "it is held");
        let is_spent = |n: usize| {
            let budget = budgets.of_at(&name(n), later);
            budget.take_at(&key, [(TierRate::Publishes, 1)], later).is_err()
        };
        assert!(is_spent(2 * MAX_IDLE - 1) && !is_spent(1), "the one used longest ago was forgotten");
        // A minute later all are full again, and forgotten when there is need.
        let later = start + Duration::from_secs(62);
        for n in 3 * MAX_IDLE..4 * MAX_IDLE {
            budgets.of_at(&name(n), later);
        }
        assert!(budgets.table.locked().by_principal.len() <= MAX_IDLE + 1);
    }
}
