//! The values of labels, where they are known beforehand.

/// Declares the values of a label as a type.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl $name {
            pub(super) const ALL: &[Self] = &[$(Self::$value,)+];

            /// The label's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }
    };
}

label! {
    /// How a sync of one managed Service ended.
    SyncResult {
        /// Its copies are in sync.
        Success => "success",
        /// A failure that another attempt may cure.
        Error => "error",
        /// Something that only a person can change.
        Refused => "refused",
        /// It waits for the watch to show its own write, or for its turn.
        Requeued => "requeued",
    }
}

label! {
    /// How a sync ended, in the words of controller-runtime.
    ReconcileResult {
        /// It is done.
        Success => "success",
        /// It is tried again, after a pause that grows.
        Error => "error",
        /// Never here: it is tried again at once.
        Requeue => "requeue",
        /// It goes on at a moment that is known.
        RequeueAfter => "requeue_after",
    }
}

label! {
    /// Why a watch restarted.
    Restart {
        /// The API server no longer knows the resourceVersion (410), or does not know it yet, as after a restore
        /// from a backup.
        Expired => "expired",
        /// The API server answered with an error, or not at all.
        Error => "error",
        /// Other names are to be watched.
        Selector => "selector",
        /// The watch did not show what a consistent read of the API shows.
        Stale => "stale",
    }
}

label! {
    /// How a probe ended.
    ProbeResult {
        /// 2xx.
        Success => "success",
        /// 401, 403 or 429.
        Alive => "alive",
        /// Nobody listens.
        Refused => "refused",
        /// The connection was cut off.
        Reset => "reset",
        /// No answer in time.
        TimedOut => "timeout",
        /// The certificate is not one that we trust.
        Certificate => "certificate",
        /// Any other status.
        Status => "status",
        /// Anything else.
        Other => "other",
    }
}

label! {
    /// How an API server looks to the probes.
    ProbeState {
        /// Never seen well.
        New => "new",
        /// It answers.
        Well => "well",
        /// It was well, and the last probes failed.
        Failing => "failing",
        /// It failed too often.
        Down => "down",
        /// It answers again, but not for long enough.
        Rising => "rising",
    }
}
