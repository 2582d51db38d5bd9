//! A slab whose keys go stale: an event of epoll may name something that an earlier event of the same batch ended.

/// Generations wrap after 2^24; a batch of events is far shorter.
const GENERATIONS: u32 = 1 << 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// 56 bits that name this key.
    pub fn bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub fn from_bits(bits: u64) -> Key {
        Key { index: bits as u32, generation: (bits >> 32) as u32 % GENERATIONS }
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub fn new() -> Slots<T> {
        Slots { slots: Vec::new(), free: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Put in what `make` makes for its key; nothing changes when that fails.
    pub fn insert_with<E>(&mut self, make: impl FnOnce(Key) -> Result<T, E>) -> Result<Key, E> {
        let index = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        let generation = self.slots.get(index as usize).map_or(0, |slot| slot.generation);
        let key = Key { index, generation };
        let value = Some(make(key)?);
        match self.slots.get_mut(index as usize) {
            Some(slot) => {
                self.free.pop();
                slot.value = value;
            }
            None => self.slots.push(Slot { generation, value }),
        }
        Ok(key)
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        slot.value.as_ref().filter(|_| slot.generation == key.generation)
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation {
            slot.value.as_mut()
        } else {
            None
        }
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(key.index);
        Some(value)
    }

    pub fn keys(&self) -> Vec<Key> {
        let key = |(index, slot): (usize, &Slot<T>)| {
            slot.value.as_ref().map(|_| Key { index: index as u32, generation: slot.generation })
        };
        self.slots.iter().enumerate().filter_map(key).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(slots: &mut Slots<u8>, value: u8) -> Key {
        slots.insert_with(|_| Ok::<u8, ()>(value)).unwrap()
    }

    #[test]
    fn a_key_goes_stale_when_its_slot_is_used_again() {
        let mut slots = Slots::new();
        let old = put(&mut slots, 1);
        assert_eq!(slots.remove(old), Some(1));
        assert_eq!(slots.keys(), []);
        let new = put(&mut slots, 2);
        assert_eq!(slots.keys(), [new]);
        assert_eq!(slots.len(), 1);
        assert!(slots.get(old).is_none());
        assert!(slots.remove(old).is_none());
        assert_eq!(slots.get_mut(new).copied(), Some(2));
    }

    #[test]
    fn a_failed_insert_changes_nothing() {
        let mut slots: Slots<u8> = Slots::new();
        assert_eq!(slots.insert_with(|_| Err("no")), Err("no"));
        assert_eq!(slots.len(), 0);
        let key = put(&mut slots, 7);
        slots.remove(key);
        assert_eq!(slots.insert_with(|_| Err("no")), Err("no"));
        assert_eq!(slots.len(), 0);
    }

    #[test]
    fn a_key_survives_the_trip_through_a_token() {
        let mut slots = Slots::new();
        for _ in 0..5 {
            let key = put(&mut slots, 1);
            assert_eq!(Key::from_bits(key.bits()), key);
            slots.remove(key);
        }
    }
}
