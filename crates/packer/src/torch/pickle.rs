//! The subset of Python's pickle language that a state dict needs.
//!
//! A pickle is a program for a stack machine that can call any Python function, so a malicious
//! model file can take over the machine that loads it. This interpreter supports the opcodes that
//! `torch.save` emits (protocol 2 of `pickletools`) and a few globals; it builds plain values,
//! calls nothing, and rejects everything else with an error that names it.
//!
//! Values live in one arena and refer to each other by index. Nothing here recurses, because a
//! pickle can nest a million tuples or insert a dict into itself. An opcode creates at most one
//! value, so memory is bounded by the length of the pickle.

mod globals;

use std::collections::HashMap;

use globals::Global;

/// Maximum length of a pickle; published models need about 100 bytes per tensor.
pub(crate) const MAX_LEN: u64 = 16 << 20;

/// A tensor as described by the pickle: a view of a storage, which is a file in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorRef {
    /// Name of the storage.
    pub(crate) key: String,
    /// PyTorch's storage class, such as `FloatStorage`.
    pub(crate) class: &'static str,
    /// Number of values in the storage.
    pub(crate) numel: u64,
    /// Offset of the tensor in its storage, in values.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    pub(crate) strides: Vec<u64>,
}

/// Index of a value in the arena.
type Id = u32;

enum Node {
    /// `None`, booleans and floats: allowed but never used.
    Plain,
    Int(i64),
    String(String),
    Tuple(Vec<Id>),
    List,
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage {
        class: &'static str,
        key: String,
        numel: u64,
    },
    Tensor(TensorRef),
}

/// The tensors of a pickled state dict, in its order.
///
/// # Errors
/// The error states what was found and at which byte offset.
pub(crate) fn tensors(pickle: &[u8]) -> Result<Vec<(String, TensorRef)>, String> {
    let mut machine = Machine {
        input: pickle,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let state_dict = loop {
        let at = machine.at;
        match machine.step().map_err(|what| format!("pickle, byte {at}: {what}"))? {
            None => {}
            Some(value) => break value,
        }
    };
    let Node::Dict(entries) = &machine.nodes[state_dict as usize] else {
        return Err("the pickle is not a state dict".into());
    };
    let mut out = Vec::with_capacity(entries.len());
    for &(key, value) in entries {
        let Node::String(name) = &machine.nodes[key as usize] else {
            return Err("the pickle is a dict whose keys are not strings".into());
        };
        match &machine.nodes[value as usize] {
            Node::Tensor(tensor) => out.push((name.clone(), tensor.clone())),
            _ => return Err(format!("the pickle's entry {name:?} is not a tensor")),
        }
    }
    Ok(out)
}

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Interprets one opcode; the last opcode returns the result.
    fn step(&mut self) -> Result<Option<Id>, String> {
        match self.byte()? {
            0x80 => match self.byte()? {
                2..=4 => {}
                v => return Err(format!("protocol {v}, expected 2 to 4")),
            },
            0x95 => _ = self.take(8)?, // frame length
            b'(' => self.marks.push(self.stack.len()),
            b'N' | 0x88 | 0x89 => self.push(Node::Plain),
            b'G' => {
                self.take(8)?;
                self.push(Node::Plain);
            }
            b'J' => {
                let v = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(v.into()));
            }
            b'K' => {
                let v = self.byte()?;
                self.push(Node::Int(v.into()));
            }
            b'M' => {
                let v = u16::from_le_bytes(self.array()?);
                self.push(Node::Int(v.into()));
            }
            0x8a => self.long()?,
            b'X' => self.unicode()?,
            0x8c => {
                let n = self.byte()?;
                self.string(n.into())?;
            }
            b')' => self.push(Node::Tuple(Vec::new())),
            b't' => {
                let items = self.items()?;
                self.push(Node::Tuple(items));
            }
            n @ 0x85..=0x87 => self.tuple(usize::from(n - 0x84))?,
            b']' => self.push(Node::List),
            b'a' => _ = self.pop()?, // lists are never used
            b'e' => _ = self.items()?,
            b'}' => self.push(Node::Dict(Vec::new())),
            b's' | b'u' => self.set_items()?,
            b'q' | b'r' | b'h' | b'j' | 0x94 => self.memo()?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Global(Global::named(module, name)?));
            }
            0x93 => self.stack_global()?,
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'.' => return self.pop().map(Some),
            other => {
                return Err(format!("opcode {other:#04x}, which a state dict does not need"));
            }
        }
        Ok(None)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let left = &self.input[self.at..];
        let bytes = left
            .get(..n)
            .ok_or_else(|| format!("expected {n} more bytes, found {}", left.len()))?;
        self.at += n;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("N bytes"))
    }

    /// Reads a string up to the end of the line.
    fn line(&mut self) -> Result<&'a str, String> {
        let n =
            self.input[self.at..].iter().position(|&b| b == b'\n').ok_or("an unterminated line")?;
        let line = self.take(n + 1)?;
        std::str::from_utf8(&line[..n]).map_err(|_| "a name that is not UTF-8".into())
    }

    fn string(&mut self, n: usize) -> Result<(), String> {
        let string =
            std::str::from_utf8(self.take(n)?).map_err(|_| "a string that is not UTF-8")?;
        self.push(Node::String(string.into()));
        Ok(())
    }

    fn unicode(&mut self) -> Result<(), String> {
        let n = u32::from_le_bytes(self.array()?);
        self.string(n as usize)
    }

    /// Reads a signed little-endian integer of up to 8 bytes.
    fn long(&mut self) -> Result<(), String> {
        let n = self.byte()?;
        let bytes = self.take(n.into())?;
        if n > 8 {
            return Err(format!("an integer of {n} bytes"));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn push(&mut self, node: Node) {
        // `MAX_LEN` keeps the number of nodes far below 2^32.
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
    }

    /// Pops a value, but not below the last mark.
    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the stack is empty".into());
        }
        Ok(self.stack.pop().expect("not empty"))
    }

    /// Pops the last mark and the values above it.
    fn items(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("no mark on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, n: usize) -> Result<(), String> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Node::Tuple(items));
        Ok(())
    }

    /// Returns the value on top of the stack without removing it.
    fn top(&mut self) -> Result<Id, String> {
        let top = self.pop()?;
        self.stack.push(top);
        Ok(top)
    }

    fn set_items(&mut self) -> Result<(), String> {
        let items = match self.input[self.at - 1] {
            b'u' => self.items()?,
            _ => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
        };
        let target = self.top()?;
        let Node::Dict(entries) = &mut self.nodes[target as usize] else {
            return Err("items for a value that is not a dict".into());
        };
        let (pairs, rest) = items.as_chunks();
        if !rest.is_empty() {
            return Err("a key without a value".into());
        }
        entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn memo(&mut self) -> Result<(), String> {
        let op = self.input[self.at - 1];
        let key = match op {
            b'q' | b'h' => self.byte()?.into(),
            0x94 => self.memo.len() as u32,
            _ => u32::from_le_bytes(self.array()?),
        };
        if matches!(op, b'h' | b'j') {
            let id =
                self.memo.get(&key).ok_or_else(|| format!("memo entry {key} does not exist"))?;
            self.stack.push(*id);
        } else {
            let top = self.top()?;
            self.memo.insert(key, top);
        }
        Ok(())
    }

    fn stack_global(&mut self) -> Result<(), String> {
        let (name, module) = (self.pop()?, self.pop()?);
        let global = match (&self.nodes[module as usize], &self.nodes[name as usize]) {
            (Node::String(module), Node::String(name)) => Global::named(module, name)?,
            _ => return Err("a name that is not a string".into()),
        };
        self.push(Node::Global(global));
        Ok(())
    }

    /// Builds a storage from `("storage", class, key, device, numel)`.
    fn persistent(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let node = |id: &Id| &self.nodes[*id as usize];
        let Node::Tuple(items) = node(&id) else {
            return Err("a storage that is not a tuple".into());
        };
        let [kind, class, key, _device, numel] = items.as_slice() else {
            return Err(format!("a storage of {} fields, expected 5", items.len()));
        };
        let storage = match (node(kind), node(class), node(key), node(numel)) {
            (
                Node::String(kind),
                &Node::Global(Global::Storage(class)),
                Node::String(key),
                &Node::Int(numel),
            ) if kind == "storage" && numel >= 0 => {
                Node::Storage { class, key: key.clone(), numel: numel as u64 }
            }
            _ => return Err("a storage in a form that PyTorch does not write".into()),
        };
        self.push(storage);
        Ok(())
    }

    /// Reproduces the known effect of a call; no code is executed.
    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Node::Tuple(arguments) = &self.nodes[arguments as usize] else {
            return Err("a call without arguments".into());
        };
        let made = match (&self.nodes[function as usize], arguments.as_slice()) {
            (Node::Global(Global::OrderedDict), []) => Node::Dict(Vec::new()),
            (Node::Global(Global::RebuildTensor), [storage, offset, shape, strides, ..]) => {
                self.rebuild(*storage, *offset, *shape, *strides)?
            }
            (Node::Global(Global::RebuildParameter), [data, ..]) => {
                let data = *data;
                self.stack.push(data);
                return Ok(());
            }
            _ => return Err("a call that a state dict does not need; no code was executed".into()),
        };
        self.push(made);
        Ok(())
    }

    fn rebuild(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<Node, String> {
        let size = |id: Id| match self.nodes[id as usize] {
            Node::Int(v) => u64::try_from(v).ok(),
            _ => None,
        };
        let sizes = |id: Id| match &self.nodes[id as usize] {
            Node::Tuple(items) => items.iter().map(|&i| size(i)).collect::<Option<Vec<u64>>>(),
            _ => None,
        };
        let tensor = match &self.nodes[storage as usize] {
            Node::Storage { class, key, numel } => {
                (size(offset), sizes(shape), sizes(strides), class, key, numel)
            }
            _ => return Err("a tensor without a storage".into()),
        };
        let (Some(offset), Some(shape), Some(strides), class, key, numel) = tensor else {
            return Err("a tensor whose offset, shape or strides are not whole numbers".into());
        };
        if shape.len() != strides.len() {
            return Err(format!(
                "a tensor with {} dimensions and {} strides",
                shape.len(),
                strides.len()
            ));
        }
        Ok(Node::Tensor(TensorRef {
            key: key.clone(),
            class,
            numel: *numel,
            offset,
            shape,
            strides,
        }))
    }

    /// Discards the state of an object: PyTorch attaches version metadata to a state dict, which is
    /// not needed here.
    fn build(&mut self) -> Result<(), String> {
        self.pop()?;
        let target = self.top()?;
        match self.nodes[target as usize] {
            Node::Dict(_) => Ok(()),
            _ => Err("state for a value that is not a dict".into()),
        }
    }
}

#[cfg(test)]
mod tests;
