//! What Redis does in one step: one typed function for each Lua script. A function builds the script's keys and
//! arguments and reads its reply, so that nobody else knows their order.
//!
//! A script touches keys of one hash tag only, so that it works on a Cluster.

/// Declares the script `../lua/NAME.lua`. Each begins with the prelude.
macro_rules! script {
    ($visibility:vis $constant:ident = $name:literal) => {
        $visibility static $constant: std::sync::LazyLock<crate::redis::link::Script> =
            std::sync::LazyLock::new(|| {
                let code =
                    concat!(include_str!("../lua/prelude.lua"), include_str!(concat!("../lua/", $name, ".lua")));
                crate::redis::link::Script::new($name, code)
            });
    };
}

pub(super) mod clock;
pub(super) mod connections;
pub(super) mod denials;
pub(super) mod governance;
pub(super) mod leases;
pub(super) mod memberships;
pub(super) mod plugins;
pub(super) mod publishing;
pub(super) mod registries;
pub(super) mod rooms;
pub(super) mod schedules;
pub(super) mod session_end;
pub(super) mod sessions;
pub(super) mod shared_values;
