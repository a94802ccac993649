import Glibc
import LockEngine
import LockTypes
@testable import Sidecar
@testable import SystemdSupport

/// Memory that is aligned as a mapping is.
private func withMemory(_ count: Int, _ body: (UnsafeMutableRawBufferPointer) -> Void) {
  let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 4096)
  defer { memory.deallocate() }
  memory.initializeMemory(as: UInt8.self, repeating: 0)
  body(memory)
}

private let imageBytes = 4096 * 5

/// A log that is written by choices is read as it was committed; damaged anywhere, it is refused or read, never trapped on;
/// and what is read can be gone on from.
func checkImage(_ input: [UInt8]) {
  var choices = Choices(input)
  withMemory(imageBytes) { memory in
    guard let log = StateLog(memory: memory, garbageBytesMax: 256, sliceBytes: 64) else { violated("no log") }
    var model: [StateLog.Key: [UInt8]] = [:]
    var committed: [StateLog.Key: [UInt8]]?
    write: for _ in 0..<choices.index(32) {
      let key = StateLog.Key(kind: choices.byte() & 3, id: UInt64(choices.byte() & 7))
      do throws(StateLog.Failure) {
        switch choices.index(5) {
        case 0, 1:
          let bytes = choices.bytes(Int(choices.byte()))
          try log.put(key, bytes)
          model[key] = bytes
        case 2:
          try log.remove(key)
          model[key] = nil
        case 3:
          let note = UnsafeMutableRawBufferPointer(rebasing: memory[..<4])
          try log.noteInput(key.id, UnsafeRawBufferPointer(note))
        default:
          try log.commit(counters: [key.id])
          committed = model
          try log.tidy()
        }
      } catch {
        break write
      }
    }
    if let committed {
      guard let image = try? StateImage(memory: UnsafeRawBufferPointer(memory)) else {
        violated("its own log is not read")
      }
      if image.records != committed { violated("other records are read") }
    }
    // Damage, in the head more often than elsewhere.
    for _ in 0..<choices.index(8) {
      let place = Int(choices.word() % UInt64(choices.bool() ? 128 : imageBytes))
      memory[place] = choices.byte()
    }
    readAndGoOn(memory)
  }
  withMemory(4096 * 3) { memory in
    memory.copyBytes(from: input.prefix(memory.count))
    readAndGoOn(memory)
  }
}

private func readAndGoOn(_ memory: UnsafeMutableRawBufferPointer) {
  guard let image = try? StateImage(memory: UnsafeRawBufferPointer(memory)) else { return }
  guard let log = StateLog(memory: memory) else { violated("no log over what was read") }
  do throws(StateLog.Failure) {
    for (key, bytes) in image.records { try log.put(key, bytes) }
    try log.commit(counters: image.counters)
  } catch {
    return
  }
  guard let again = try? StateImage(memory: UnsafeRawBufferPointer(memory)) else {
    violated("what was gone on with is lost")
  }
  if again.records != image.records || again.counters != image.counters { violated("other records are gone on with") }
}

/// A session's record, and the daemon's, that is understood is written again the same.
func checkKept(_ input: [UInt8]) {
  if let session = try? SavedSession(id: SessionID(7), input) {
    guard let again = try? SavedSession(id: SessionID(7), session.encode()) else {
      violated("its own record is not read")
    }
    if again != session { violated("another session is written") }
  }
  // One of a later format is written in this one.
  if let identity = try? SavedIdentity(input), (try? SavedIdentity(identity.encode())) != identity {
    violated("another identity is written")
  }
}

/// Records of an engine, whatever they say: a successor takes them up without a trap, its timer makes progress, and when
/// everybody has left nothing is held and nobody waits.
func checkRestore(_ input: [UInt8]) {
  var choices = Choices(input)
  var state = SavedState()
  let now = BootInstant(nanoseconds: 1_000_000_000_000)
  while !choices.isAtEnd {
    guard let kind = SavedState.Kind(rawValue: 1 + choices.byte() & 3) else { continue }
    try? state.add(kind, choices.bytes(Int(choices.byte())), now: now)
  }
  var driver = EngineDriver(now: now)
  driver.begin(with: state, numbers: (0..<4).map { _ in choices.word() })
  driver.play(seconds: 30)
  driver.finish()
}
