# shellcheck source=protocol/clients/bash/sidelock.bash
. ./sidelock.bash
read -r up _ </proc/uptime
end=$((${up/./} + CYCLES_SECONDS * 100)) count=0
while read -r up _ </proc/uptime && [ "${up/./}" -lt "$end" ]; do
  sidelock_acquire cycles || exit
  sidelock_release cycles || exit
  count=$((count + 1))
done
echo "$count"
