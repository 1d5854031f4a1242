"""What of an address is shown."""

import pytest

from shards.address import address_of, hide, shown


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("data/mine", "data/mine"),
        ("/data/a@b?c=d", "/data/a@b?c=d"),
        ("s3://bucket/set", "s3://bucket/set"),
        ("s3://key:secret@bucket/set", "s3://***@bucket/set"),
        ("https://token@host:8443/set/", "https://***@host:8443/set/"),
        ("https://host/set?token=abc&empty=&sig=x%2Fy#part", "https://host/set?token=***&empty=***&sig=***"),
        ("https://[host/set?token=abc", "https://***"),
        ("pipe:cat", "pipe:cat"),
        ("pipe:aws s3 cp s3://bucket/{} - --key abc", "pipe:aws ***"),
        ("pipe:KEY=abc aws", "pipe:*** ***"),
        ("pipe:", "pipe:"),
    ],
)
def test_shown(address, expected):
    assert shown(address) == expected and shown(expected) == expected


def test_files_of_a_data_set():
    assert address_of("s3://b/set/", "a/b.tar") == "s3://b/set/a/b.tar"
    assert address_of("https://h/set?t=1", "a/b.tar") == "https://h/set/a/b.tar?t=1"
    assert address_of("pipe:get {} -", "a b") == "pipe:get 'a b' -"


def test_credentials_in_the_words_of_a_library():
    address = "https://me:pass%2Fword@host/set?token=abcdef"
    text = "GET https://me:pass%2Fword@host/set/x?token=abcdef : pass/word and abcdef fail (https://o/?k=v)"
    expected = "GET https://***@host/set/x?token=*** : *** and *** fail (https://o/?k=***)"
    assert hide(text, address) == expected
