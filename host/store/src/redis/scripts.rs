//! What happens in Redis in one step. A script touches the keys of one hash tag only, so that it works on a Cluster.

use std::sync::LazyLock;

pub(crate) struct Script {
    /// What it is called in metrics.
    pub name: &'static str,
    pub code: String,
    pub sha1: String,
}

macro_rules! scripts {
    ($($constant:ident = $name:literal;)*) => {$(
        pub(crate) static $constant: LazyLock<Script> = LazyLock::new(|| {
            let code = concat!(include_str!("lua/prelude.lua"), include_str!(concat!("lua/", $name, ".lua")));
            Script { name: $name, code: code.to_owned(), sha1: fred::util::sha1_hash(code) }
        });
    )*};
}

scripts! {
    PUBLISH = "publish";
    READ = "read";
    RENEW = "renew";
    SUMMARY = "summary";
    MEMBERS = "members";
    RECEIPT = "receipt";
    ENROL = "enrol";
    ACK = "ack";
    CLAIM = "claim";
    TAKE = "take";
    AMEND = "amend";
    PUT = "put";
    LETGO = "letgo";
    ENDING = "ending";
    BURY = "bury";
    STRIKE = "strike";
    DUE = "due";
    UNLIST = "unlist";
    HOLDERS = "holders";
    NOTICE = "notice";
    TIME = "time";
    COUNT = "count";
    PLACE = "place";
    TICK = "tick";
    UPLOAD = "upload";
    RELEASE = "release";
    RESTORE = "restore";
    REGISTER = "register";
}
