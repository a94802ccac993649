import LockEngine
import LockTypes

/// All events that one engine was given, and their effects. Another engine that is given the same events gives the same
/// effects: the events are its whole input.
struct EventRecord {
  struct Entry {
    var event: Event
    var now: BootInstant
    var effects: [Effect]
    var nextDeadline: BootInstant?
  }

  /// Whose engine it was.
  var title: String
  let configuration: EngineConfiguration
  var entries: [Entry] = []

  /// Has an engine take in an event, and notes that.
  mutating func feed(_ event: Event, to engine: LockEngine, now: BootInstant) -> [Effect] {
    var effects: [Effect] = []
    engine.handle(event, now: now, into: &effects)
    entries.append(Entry(event: event, now: now, effects: effects, nextDeadline: engine.nextDeadline))
    return effects
  }

  /// Gives a new engine the same events. Returns the first difference in words; nil when there is none.
  func replay() -> String? {
    let engine = LockEngine(configuration: configuration)
    for (number, entry) in entries.enumerated() {
      var effects: [Effect] = []
      engine.handle(entry.event, now: entry.now, into: &effects)
      guard effects == entry.effects, engine.nextDeadline == entry.nextDeadline else {
        return """
          \(title), event \(number): \(entry.event)
          before: \(entry.effects), then at \(String(describing: entry.nextDeadline))
          now: \(effects), then at \(String(describing: engine.nextDeadline))
          """
      }
    }
    return nil
  }

  /// To be read: each event with its number and moment, and the effects below it.
  var text: String {
    var lines = ["\(title)", "\(configuration)"]
    for (number, entry) in entries.enumerated() {
      lines.append("\(number) @\(entry.now.nanoseconds) \(entry.event)")
      lines += entry.effects.map { "    \($0)" }
    }
    return lines.joined(separator: "\n") + "\n"
  }
}
