//! What becomes of the paths in a configuration: the type of the key says it in the schema, so that it is said once.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// The key of a schema that has a [`PathUse`], beside `format: path`.
pub(crate) const KEY: &str = "x-path";

/// What sidegate does with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PathUse {
    /// A file, which is read.
    Read,
    /// A file with a secret, which is read.
    ReadSecret,
    /// A file, which is read, or a folder of which files are.
    ReadFileOrFolder,
    /// A file, which is made if it is missing, to which is appended, and whose end is read.
    Append,
    /// A folder, which is made if it is missing, and in which files are made, written, read and deleted.
    KeepFolder,
    /// A Unix socket, which is made, its folder too if that is missing; what an earlier process left there is connected to and removed.
    BindSocket,
    /// A Unix socket of somebody else, which is connected to.
    ConnectSocket,
}

impl PathUse {
    /// Whether what the file holds must never be shown.
    #[must_use]
    pub fn is_secret(self) -> bool {
        self == Self::ReadSecret
    }

    /// The one that `word` in a schema stands for. Sockets that are connected to are known by the format of their address.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        WORDS.iter().find(|(_, known)| *known == word).map(|(path_use, _)| *path_use)
    }
}

macro_rules! paths {
    ($($(#[$doc:meta])* $name:ident $path_use:ident $word:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            pub struct $name;

            impl JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> { stringify!($name).into() }
                fn inline_schema() -> bool { true }
                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({ "type": "string", "format": "path", "x-path": $word })
                }
            }
        )*

        const WORDS: &[(PathUse, &str)] = &[$((PathUse::$path_use, $word)),*];
    };
}

// The schemas of paths, for `#[schemars(with = "FilePath")]`. By their format it is known which texts are paths: those are made absolute
// when a document is read; see the module `paths`.
paths! {
    /// The path of a file that is read.
    FilePath Read "file";
    /// The path of a file that is read and holds a secret.
    SecretPath ReadSecret "secret file";
    /// The path of a file that is read, or of a folder of which files are.
    FileOrFolderPath ReadFileOrFolder "file or folder";
    /// The path of a file to which is appended.
    AppendPath Append "appended file";
    /// The path of a folder in which files are made.
    FolderPath KeepFolder "folder";
    /// The path of a Unix socket that is made.
    SocketPath BindSocket "socket";
}
