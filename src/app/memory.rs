//! What the allocator does with the memory that loading a large table frees.
//!
//! A million environments are decoded before the table is made of them, and take
//! three times its size for a moment. The allocator keeps freed memory for the
//! next request of it, which never comes; while a table loads it gives it back to
//! the system at once. On the path of requests it goes on as before.

use std::ffi::{c_int, c_long};

// Its functions are those of the allocator that the binary is linked with.
use mimalloc as _;

#[allow(unsafe_code, reason = "the allocator's options have no safe form; both calls read and write one number")]
unsafe extern "C" {
    safe fn mi_option_get(option: c_int) -> c_long;
    safe fn mi_option_set(option: c_int, value: c_long);
}

/// `mi_option_purge_delay` of its header: after so many milliseconds freed pages
/// go back to the system, if something else is freed then.
const PURGE_DELAY: c_int = 15;

/// Does `load`; what that frees goes back to the system at once.
pub(super) fn loading(load: &mut dyn FnMut()) {
    let _usual = Usual::leave();
    load();
}

/// How long freed memory is usually kept; so again when this is dropped, also by a panic.
struct Usual(c_long);

impl Usual {
    fn leave() -> Self {
        let usual = Self(mi_option_get(PURGE_DELAY));
        mi_option_set(PURGE_DELAY, 0);
        usual
    }
}

impl Drop for Usual {
    fn drop(&mut self) {
        mi_option_set(PURGE_DELAY, self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_memory_goes_back_at_once_while_a_table_loads_and_only_then() {
        let usual = mi_option_get(PURGE_DELAY);
        assert!(usual > 0, "{usual}");
        let mut meanwhile = None;
        loading(&mut || meanwhile = Some(mi_option_get(PURGE_DELAY)));
        assert_eq!((meanwhile, mi_option_get(PURGE_DELAY)), (Some(0), usual));
    }
}
