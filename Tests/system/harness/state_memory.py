"""The memory in which a daemon leaves its state: to damage what stands in it, with checksums that are right."""

import os
import struct

_HEAD, _MASK = 4096, (1 << 64) - 1
LEASE, IDENTITY = 1, 17
ATTEMPTS_OFFSET = 40


def _checksum(first, identifier, payload):
    total = 0x9E37_79B9_7F4A_7C15

    def mix(total, word):
        total = ((total ^ word) * 0xFF51_AFD7_ED55_8CCD) & _MASK
        return total ^ total >> 32

    total = mix(mix(total, first), identifier)
    whole = len(payload) // 8 * 8
    for (word,) in struct.iter_unpack("<Q", payload[:whole]):
        total = mix(total, word)
    last = 0
    for byte in payload[whole:]:
        last = last << 8 | byte
    return mix(total, last)


def _entries(descriptor):
    """Where each entry begins, its first word, id and payload, in both areas."""
    size = os.fstat(descriptor).st_size
    area_bytes = (size - _HEAD) // 2 // _HEAD * _HEAD
    for start in (_HEAD, _HEAD + area_bytes):
        data = os.pread(descriptor, 1 << 20, start)
        offset = 8
        while offset + 24 <= len(data):
            first, identifier, checksum = struct.unpack_from("<QQQ", data, offset)
            count = first & 0xFFFF_FFFF
            payload = data[offset + 24:offset + 24 + count]
            if not first or len(payload) < count or _checksum(first, identifier, payload) != checksum:
                break
            yield start + offset, first, identifier, payload
            offset += (24 + count + 7) & ~7


def change_records(descriptor, kind, change):
    """Has `change` make another payload of that of each record of a kind. Gives how many there were."""
    changed = 0
    for offset, first, identifier, payload in list(_entries(descriptor)):
        if first >> 32 & 0xFF == 1 and first >> 40 & 0xFF == kind:
            new = change(payload)
            assert len(new) == len(payload)
            os.pwrite(descriptor, struct.pack("<Q", _checksum(first, identifier, new)) + new, offset + 16)
            changed += 1
    return changed


def with_lease_milliseconds(payload, milliseconds):
    """A lease's payload: name (length and bytes), attempt, mode, milliseconds, …"""
    (name_bytes,) = struct.unpack_from("<Q", payload)
    place = 8 + name_bytes + 8 + 1
    return payload[:place] + struct.pack("<q", milliseconds) + payload[place + 8:]


def with_valid_until(payload, nanoseconds):
    (name_bytes,) = struct.unpack_from("<Q", payload)
    place = 8 + name_bytes + 8 + 1 + 8 + 1
    return payload[:place] + struct.pack("<q", nanoseconds) + payload[place + 8:]


def with_format(payload, version, oldest_reader):
    """An identity's payload: the format of all records, the first whose readers can go on with it, …"""
    return struct.pack("<QQ", version, oldest_reader) + payload[16:]
