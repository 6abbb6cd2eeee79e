//! The changes of the queue, each a script.

use std::sync::LazyLock;

use redis::Script;

macro_rules! script {
    ($name:ident, $file:literal) => {
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!(include_str!("../lua/common.lua"), "\n", include_str!($file))));
    };
}
script!(ENQUEUE, "../lua/enqueue.lua");
script!(TICK, "../lua/tick.lua");
script!(START, "../lua/start.lua");
script!(CLAIM, "../lua/claim.lua");
script!(TOUCH, "../lua/touch.lua");
script!(SETTLE, "../lua/settle.lua");
script!(BACK, "../lua/back.lua");
script!(FORGET, "../lua/forget.lua");
script!(DEAD, "../lua/dead.lua");
script!(STATS, "../lua/stats.lua");
