//! Replaces the sources of randomness and wall-clock time, so that a seed always gives the same run if it is the first
//! run in its process.
//!
//! The operator and its crates get both from the system: the order of a `HashMap` and the jitter of a backoff come from
//! `getrandom`, and the times in a Lease from `clock_gettime`. This file defines these libc functions, and `syscall`,
//! for the program that it is linked into. On a thread that has called [`begin`], random bytes follow from the seed,
//! and the wall clock shows the last value of [`set_wall`]. All other threads get real random bytes and the real time.
#![expect(
    unsafe_code,
    reason = "three functions of libc are replaced by name; there is no other way to reach the crates that call them"
)]

use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_char, c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};

use crate::chance::split_mix;

thread_local! {
    static CHANCE: Cell<Option<u64>> = const { Cell::new(None) };
    static WALL: Cell<Option<i64>> = const { Cell::new(None) };
    static LOOKS: Cell<u64> = const { Cell::new(0) };
}

/// From now on, gives this thread the simulated wall clock, and random bytes from the seed. Call this first on a new
/// thread, because the standard library asks for random bytes once per thread.
pub fn begin(seed: u64) {
    CHANCE.set(Some(seed));
    set_wall(0);
}

/// Sets the wall clock of this thread, as Unix time in nanoseconds.
pub fn set_wall(nanoseconds: i64) {
    WALL.set(Some(nanoseconds));
}

/// The number of times that this thread has read the wall clock.
pub fn looks() -> u64 {
    LOOKS.get()
}

/// If this thread is simulated, fills a buffer and returns true.
///
/// # Safety
/// As for `getrandom(2)`: the buffer must have at least `length` bytes.
unsafe fn fill(buffer: *mut u8, length: usize) -> bool {
    let Some(mut state) = CHANCE.get() else {
        return false;
    };
    for at in 0..length {
        let byte = split_mix(&mut state).to_le_bytes()[0];
        unsafe { buffer.add(at).write(byte) };
    }
    CHANCE.set(Some(state));
    true
}

/// The function with this name that would be called without this file.
fn real(name: &'static std::ffi::CStr, known: &AtomicPtr<c_void>) -> *mut c_void {
    let mut found = known.load(Ordering::Relaxed);
    if found.is_null() {
        let name: *const c_char = name.as_ptr();
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, name) };
        assert!(!found.is_null(), "libc has no such function");
        known.store(found, Ordering::Relaxed);
    }
    found
}

/// Called by the standard library and by newer versions of the `getrandom` crate.
///
/// # Safety
/// As for `getrandom(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    type Real = unsafe extern "C" fn(*mut c_void, size_t, c_uint) -> ssize_t;
    if unsafe { fill(buffer.cast(), length) } {
        return length.cast_signed();
    }
    unsafe { std::mem::transmute::<*mut c_void, Real>(real(c"getrandom", &REAL))(buffer, length, flags) }
}

/// Called by older versions of the `getrandom` crate. Everything that waits for a lock calls it too, hence the six
/// arguments.
///
/// # Safety
/// As for `syscall(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    first: c_long,
    second: c_long,
    third: c_long,
    fourth: c_long,
    fifth: c_long,
    sixth: c_long,
) -> c_long {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    type Real = unsafe extern "C" fn(c_long, ...) -> c_long;
    if number == libc::SYS_getrandom {
        let length = usize::try_from(second).unwrap_or(0);
        let buffer = std::ptr::with_exposed_provenance_mut(first.cast_unsigned().try_into().unwrap_or(0));
        if unsafe { fill(buffer, length) } {
            return second;
        }
    }
    let real = unsafe { std::mem::transmute::<*mut c_void, Real>(real(c"syscall", &REAL)) };
    unsafe { real(number, first, second, third, fourth, fifth, sixth) }
}

/// Called for the wall clock and the monotonic clock. Only the wall clock is simulated.
///
/// # Safety
/// As for `clock_gettime(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    type Real = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;
    if clock == libc::CLOCK_REALTIME
        && let Some(wall) = WALL.get()
    {
        LOOKS.set(LOOKS.get() + 1);
        let shown = timespec {
            tv_sec: wall.div_euclid(1_000_000_000),
            tv_nsec: wall.rem_euclid(1_000_000_000),
        };
        unsafe { time.write(shown) };
        return 0;
    }
    unsafe { std::mem::transmute::<*mut c_void, Real>(real(c"clock_gettime", &REAL))(clock, time) }
}
