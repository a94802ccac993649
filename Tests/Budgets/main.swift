import Glibc

// Does the daemon's pure work again and again, so that its cost can be counted; Tests/lib/budgets.py runs it.
//
// usage: Budgets ROUNDS [NAME…]
//
// Prints a line for each measurement: its name, the rounds, and the allocations of all of them.

let measurements = protocolMeasurements + redisMeasurements + engineMeasurements + pathMeasurements + scaleMeasurements
let wanted = CommandLine.arguments.dropFirst(2)
guard let rounds = CommandLine.arguments.dropFirst().first.flatMap({ Int($0) }), rounds > 0 else {
  print("usage: Budgets ROUNDS [NAME…]")
  print(measurements.map(\.name).joined(separator: "\n"))
  exit(2)
}
for measurement in measurements where wanted.isEmpty || wanted.contains(measurement.name) {
  print(measurement.name, rounds, measurement.run(rounds: rounds))
}
