//! What clients are told if a plugin rejects something, or if a room is about to change its plugin. Decides nothing
//! itself.

use switchyard_plugin::{PluginFunction, RejectionCode};
use switchyard_protocol::{ErrorCode, Refusal, room::RoomName};

/// `retryAfter` for a publisher that a plugin limits, in milliseconds.
const PUBLISH_RETRY_MS: u64 = 1000;

/// When a publisher may try again if its room is just changing its owner.
const RETRY_AFTER_HANDOVER_MS: u64 = 200;

/// The refusal for the client if a `hook` of a plugin rejects something. The text is the plugin's.
pub(super) fn wire_refusal(hook: PluginFunction, rejection: switchyard_plugin::Rejection) -> Refusal {
    use RejectionCode::{Denied, Failed, Invalid, Limit, TooLarge};
    let code = match (hook, rejection.code) {
        (_, Failed) => ErrorCode::PluginFailed,
        (PluginFunction::Connect, Limit) => ErrorCode::ConnectionLimit,
        (PluginFunction::Connect, Denied | Invalid | TooLarge) => ErrorCode::Forbidden,
        (PluginFunction::Publish, Limit) => {
            return Refusal::retry(ErrorCode::RateLimited, rejection.message, PUBLISH_RETRY_MS);
        }
        (PluginFunction::Publish, TooLarge) => ErrorCode::MessageTooLarge,
        (PluginFunction::Publish, Denied | Invalid) => ErrorCode::MessageRejected,
        (_, Limit) => ErrorCode::RoomLimit,
        (_, Denied) => ErrorCode::RoomRejected,
        (PluginFunction::Room, Invalid | TooLarge) => ErrorCode::RoomInvalid,
        (_, Invalid | TooLarge) => ErrorCode::FilterInvalid,
    };
    Refusal::new(code, rejection.message)
}

/// The refusal of a message while this node may not know which plugin governs its room.
pub(super) fn outdated_governance(room: &str) -> Refusal {
    let message =
        format!("room '{room}': this node is just asking the store which plugin governs it; try again");
    Refusal::retry(ErrorCode::StoreUnavailable, message, RETRY_AFTER_HANDOVER_MS)
}

/// The refusal of a message to a room that is just changing its governor.
pub(super) fn changing_governor(room: &str) -> Refusal {
    let message = format!("room '{room}' is being handed over to another plugin; try again");
    Refusal::retry(ErrorCode::PluginFailed, message, RETRY_AFTER_HANDOVER_MS)
}

/// The refusal of a member whose room has another name under its new plugin.
pub(super) fn renamed(room: &RoomName, canonical: &RoomName) -> Refusal {
    let message = format!("room '{}' is now called '{}'; subscribe to that", &**room, &**canonical);
    Refusal::new(ErrorCode::RoomRejected, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_code_depends_on_the_hook() {
        let code =
            |hook, code| wire_refusal(hook, switchyard_plugin::Rejection { code, message: "no".into() }).code;
        for (hook, denied, limit, too_large) in [
            (PluginFunction::Connect, ErrorCode::Forbidden, ErrorCode::ConnectionLimit, ErrorCode::Forbidden),
            (PluginFunction::Room, ErrorCode::RoomRejected, ErrorCode::RoomLimit, ErrorCode::RoomInvalid),
            (
                PluginFunction::Subscribe,
                ErrorCode::RoomRejected,
                ErrorCode::RoomLimit,
                ErrorCode::FilterInvalid,
            ),
            (
                PluginFunction::Publish,
                ErrorCode::MessageRejected,
                ErrorCode::RateLimited,
                ErrorCode::MessageTooLarge,
            ),
        ] {
            assert_eq!(code(hook, RejectionCode::Denied), denied, "{hook:?}");
            assert_eq!(code(hook, RejectionCode::Limit), limit, "{hook:?}");
            assert_eq!(code(hook, RejectionCode::TooLarge), too_large, "{hook:?}");
            assert_eq!(code(hook, RejectionCode::Failed), ErrorCode::PluginFailed, "{hook:?}");
        }
    }
}
