//! The names of Python that a pickle may import. Their effect is reproduced; nothing is called.

/// A global that a table of tensors may import.
#[derive(Clone, Copy)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(&'static str),
}

/// The storage classes that a table may mention, whether readable or not.
const STORAGES: [&str; 10] = [
    "FloatStorage",
    "HalfStorage",
    "BFloat16Storage",
    "DoubleStorage",
    "LongStorage",
    "IntStorage",
    "ShortStorage",
    "CharStorage",
    "ByteStorage",
    "BoolStorage",
];

impl Global {
    /// The global that a pickle imports, unless it must be refused.
    pub(super) fn named(module: &str, name: &str) -> Result<Self, String> {
        let storage = || STORAGES.into_iter().find(|&s| s == name).map(Self::Storage);
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", _) => storage(),
            _ => None,
        }
        .ok_or_else(|| {
            let global = format!("{module}.{name}");
            format!("imports {global:?}, which a table of tensors does not need; nothing was run")
        })
    }
}
