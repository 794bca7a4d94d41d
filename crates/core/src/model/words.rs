//! Words that users see. One macro declares enums whose values are words in the API, metrics, logs and Events. The
//! other declares labels and annotations with their documentation.

/// Declares an enum, the list of its values, and the word for each.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$value_meta:meta])* $value:ident => $word:expr,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$value_meta])* $value,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$value),+];

            /// The word that users see.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $word,)+ }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

/// Declares labels or annotations, and the list of them with their values.
macro_rules! documented {
    ($(#[$meta:meta])* $list:ident; $($(#[$key_meta:meta])* $key:ident = $name:literal => $values:literal;)+) => {
        $($(#[$key_meta])* pub const $key: &str = $name;)+

        $(#[$meta])*
        pub const $list: [(&str, &str); [$($name),+].len()] = [$(($key, $values)),+];
    };
}

pub(crate) use {documented, words};
