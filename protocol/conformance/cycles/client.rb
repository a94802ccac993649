require "sidelock"

finish = Process.clock_gettime(Process::CLOCK_MONOTONIC) + ENV["CYCLES_SECONDS"].to_f
count = 0
while Process.clock_gettime(Process::CLOCK_MONOTONIC) < finish
  Sidelock.with_lock("cycles") {}
  count += 1
end
puts count
