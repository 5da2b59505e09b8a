"""The bash script that finds and archives files of a zone, where the zone itself would find them.

It runs inside the zone, by the platform's own bash and gtar: in a running one by zlogin, in a stopped one
that `zoneadm mount` has readied, by `zlogin -S`, where the zone's root is /a.  Links are resolved one by one
below that root, so none leads out of it, and none into the global zone, which never looks at these paths.

    script ROOT BIN OPERATION PATH FOLLOW [MORE...]        BIN holds the platform's gtar, readlink, rm

`pack` answers with a tar alone.  Else the answer begins with one word and a NUL: `ok`, `missing`, `notdir`, `loop`.  After ok comes the path found and
where it leads if it is a link, each with a NUL; then, for `status` and `read`, a tar.
"""

from __future__ import annotations

_PACK = r"""
# All names first: a tar that waits for its reader reads no more of them, and who writes them is its reader.
pack() {
  local root=$1 gtar=$2 name; shift 2
  local names=()
  while IFS= read -r -d '' name; do
    [[ -e $root/$name || -L $root/$name ]] && names+=("$name")
  done
  { ((${#names[@]})) && printf '%s\0' "${names[@]}"; } |
    "$gtar" cf - --numeric-owner --no-recursion "$@" --null -C "$root" -T -
}
"""
PACK = _PACK + 'LC_ALL=C; export LC_ALL; pack "$@"'
"""ROOT GTAR [OPTIONS...] < names, with a NUL after each: a tar of these files; what has gone meanwhile is left out."""

SCRIPT = (
    _PACK
    + r"""
LC_ALL=C; export LC_ALL; unset CDPATH; set -f
root=$1 bin=$2 operation=$3 path=$4 follow=$5; shift 5
answer() { printf '%s\0' "$@"; }
refuse() { answer "$1"; exit 0; }
# Sets $real to the path without links, below the root; $2: whether a link at its end is followed.
# What is missing is taken as it stands.
resolve() {
  local rest=$1 last=$2 name target hops=0
  real=
  while [[ -n $rest ]]; do
    name=${rest%%/*}
    if [[ $rest == */* ]]; then rest=${rest#*/}; else rest=; fi
    case $name in ''|.) continue ;; ..) real=${real%/*}; continue ;; esac
    if [[ -L $root$real/$name && ( -n $rest || $last == 1 ) ]]; then
      (( ++hops > 40 )) && { why=loop; return 1; }
      target=$("$bin/readlink" "$root$real/$name"; printf x); target=${target%$'\n'x}
      [[ $target == /* ]] && real=
      rest=$target${rest:+/$rest}
    elif [[ ! -e $root$real/$name && ! -L $root$real/$name ]]; then
      real=$real/$name${rest:+/$rest} why=missing; return 1
    elif [[ -n $rest && ! -d $root$real/$name ]]; then
      why=notdir; return 1
    else
      real=$real/$name
    fi
  done
}
found() {
  resolve "$path" "$follow" || refuse "$why"
  [[ $follow == 1 && -n $real && ! -d $root$real ]] && refuse notdir
  here=$real there=
  if [[ -L $root$here ]]; then resolve "$path" 1 || [[ $why == missing ]] && there=$real; real=$here; fi
  answer ok "$here" "$there"
}
case $operation in
status)
  found
  exec "$bin/gtar" cf - --numeric-owner --no-recursion -C "$root${here%/*}/" -- "./${here##*/}" ;;
read)
  found
  if [[ -d $root$here && ! -L $root$here ]]; then
    exec "$bin/gtar" cf - --numeric-owner "$@" -C "$root$here/" .
  fi
  exec "$bin/gtar" cf - --numeric-owner -C "$root${here%/*}/" -- "${here##*/}" ;;
look)
  follow=1; found
  # What each entry of an archive will meet: `-` nothing, `d`, `f`, or `l` if its folder is reached by a link.
  while IFS= read -r -d '' name; do
    kind=-
    if resolve "$here/$name" 0; then
      kind=f
      [[ -d $root$real && ! -L $root$real ]] && kind=d
      [[ $real == "$here/$name" ]] || kind=l
    fi
    answer "$kind"
  done ;;
clear)
  follow=1; found
  while IFS= read -r -d '' name; do
    resolve "$here/$name" 0 && [[ -n $real ]] && "$bin/rm" -rf -- "$root$real"
  done ;;
pack)
  pack "$root/" "$bin/gtar" "$@" ;;
write)
  follow=1; found
  exec "$bin/gtar" xpf - --numeric-owner -C "$root$here/" ;;
esac
"""
)
