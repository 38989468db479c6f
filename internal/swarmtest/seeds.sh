#!/bin/sh
# seeds.sh faults|stories BINARY DIR FROM COUNT COMMIT [FOR]
#
# Runs seeds of a test binary of this package, each in a process of its own: a
# panic ends its own seed only. DIR/seeds has a line for each seed; those that
# are good are not run again, unless COMMIT is another one. FOR, like 90s, 10m
# or 1h, is when to stop: no seed begins after it. A seed that failed leaves
# what it said in DIR/seed-N.out.
set -u
if [ $# -lt 6 ]; then echo "usage: $0 faults|stories BINARY DIR FROM COUNT COMMIT [FOR]" >&2; exit 2; fi
what=$1 binary=$2 from=$4 count=$5 commit=$6 limit=${7:-}
case $what in
faults) which='-test.run=^TestFaults$' ;;
*) which='-test.skip=^TestFaults$' ;;
esac
mkdir -p "$3" || exit 2
dir=$(cd "$3" && pwd) binary=$(cd "$(dirname "$binary")" && pwd)/$(basename "$binary")
seeds=$dir/seeds
touch "$seeds"
before=$(sed -n '1s/^commit //p' "$seeds")
if [ "$before" != "$commit" ]; then
	if [ -s "$seeds" ]; then
		mv "$seeds" "$seeds.before"
		echo "$what: the seeds so far are of ${before:-an unknown commit}, this is $commit: all begin anew"
	fi
	echo "commit $commit" > "$seeds"
fi
end=
if [ -n "$limit" ]; then
	if ! echo "$limit" | grep -Eq '^([0-9]+h)?([0-9]+m)?([0-9]+s)?$'; then echo "FOR=$limit: want whole hours, minutes and seconds like 1h30m" >&2; exit 2; fi
	end=$(($(date +%s) + $(echo "$limit" | sed 's/h/*3600+/;s/m/*60+/;s/s/+/;s/$/0/')))
fi
cd "$(dirname "$0")" || exit 2
k=$from
while [ "$k" -lt $((from + count)) ]; do
	if grep -q "^seed $k: good" "$seeds"; then k=$((k + 1)); continue; fi
	if [ -n "$end" ] && [ "$(date +%s)" -ge "$end" ]; then echo "$what: $limit are over before seed $k"; break; fi
	out=$dir/seed-$k.out
	how=FAILED
	SWARM_SEED=$k SWARM_DIR=$dir "$binary" "$which" -test.timeout 1h -test.v > "$out" 2>&1 && how=good
	sum=
	if [ "$what" = faults ]; then
		sum=$(sed -n 's/.*\(acknowledged [0-9]*, .*disagreements [0-9]*\).*/\1/p' "$out" | head -1)
		sum=${sum:-without a verdict}
	fi
	[ $how = good ] && rm -f "$out"
	grep -v "^seed $k:" "$seeds" > "$seeds.new"
	echo "seed $k: $how $sum" | tee -a "$seeds.new"
	mv "$seeds.new" "$seeds"
	k=$((k + 1))
done
awk -v what="$what" '/^seed / {
		n++; bad += $3 == "FAILED"; if (/without a verdict/) { mute++; next }
		for (i = 4; i < NF; i += 2) sum[$i] += $(i+1)
	}
	END {
		printf "%s: %d seeds, %d failed", what, n, bad
		if (mute) printf ", %d without a verdict, which the sums leave out", mute
		if (what == "faults") printf ": acknowledged %d, committed %d, rejected %d, lost %d, duplicated %d, disagreements %d", \
			sum["acknowledged"], sum["committed"], sum["rejected"], sum["lost"], sum["duplicated"], sum["disagreements"]
		print ""; exit bad > 0 || mute > 0
	}' "$seeds"
