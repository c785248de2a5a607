//! Libraries with a C interface that are opened at run time.

use std::error::Error;

/// Declares `Library`, with a field for each function by its name in the library's header
/// and its type. What calls them is `unsafe`, in the one file that declares them.
macro_rules! c_library {
    ($($field:ident: $name:literal, $type:ty;)*) => {
        /// An open library. It is never unloaded: it may have threads and
        /// thread-local state that outlive a program.
        #[derive(Clone, Copy, Debug)]
        pub struct Library {
            $($field: $type,)*
        }

        impl Library {
            /// Opens the library at a path, or the one that the loader finds by
            /// a bare name.
            pub fn open(path: &::std::path::Path) -> Result<Self, String> {
                // SAFETY: the file is named like the library and comes from a place
                // for libraries; its initialisers run as in any program that
                // links it.
                let library = unsafe { ::libloading::Library::new(path) };
                let library =
                    library.map_err($crate::toolchain::library::loader_message)?;
                // SAFETY: names and types are those of its header.
                let functions = unsafe {
                    Library {
                        $($field: *library
                            .get::<$type>($name)
                            .map_err(|_| format!("it has no {}", $name))?,)*
                    }
                };
                std::mem::forget(library);
                Ok(functions)
            }
        }
    };
}

pub(crate) use c_library;

/// The loader's message about a library that does not open.
pub fn loader_message(error: libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
