//! The allocator of the shipped binary, counted: bytes in use, their peak, and how often this
//! thread asked for some.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use mimalloc::MiMalloc;

pub struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Bytes asked for and not given back.
pub fn bytes() -> usize {
    BYTES.load(Ordering::Relaxed)
}

/// The most there were since [`reset_peak`].
pub fn peak() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// Forgets the peak; answers the bytes in use.
pub fn reset_peak() -> usize {
    let bytes = bytes();
    PEAK.store(bytes, Ordering::Relaxed);
    bytes
}

/// How often this thread has allocated.
pub fn allocations_of_this_thread() -> u64 {
    ALLOCATIONS.get()
}

// SAFETY: every call is passed on to the allocator as it came. The
// thread's counter has no destructor and is initialised without allocating.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        let bytes = BYTES.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(bytes, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }
}
