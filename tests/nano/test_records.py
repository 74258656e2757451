import pytest

from text2lora.nano import KINDS, sample_record


@pytest.mark.parametrize("kind", KINDS)
def test_values_stand_in_the_line_as_they_are(kind):
    for seed in range(200):
        line, fields = sample_record(kind, seed)
        assert "\n" not in line
        for name, value in fields.items():
            if name != "iso_date":
                assert value in line, (name, line)
        if "price" in fields:
            assert f"${fields['price']}" in line


def test_fields_agree_with_each_other():
    for kind in KINDS:
        for seed in range(100):
            _, f = sample_record(kind, seed)
            if "name" in f:
                assert f["name"] == f"{f['first']} {f['last']}"
            if "email" in f:
                assert f["email"] == f"{f['email_user']}@{f['email_domain']}"
            if "iso_date" in f:
                assert f["iso_date"].startswith(f["year"])
                assert int(f["iso_date"][-2:]) == int(f["day"])
            if "time" in f:
                assert f["time"].startswith(f["hour"] + ":")


def test_half_of_the_names_are_invented():
    from text2lora.nano.records import WORDS

    known = sum(sample_record("order", seed)[1]["first"] in WORDS["first"] for seed in range(400))
    assert 140 < known < 260


def test_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'letter': expected one of order, ticket"):
        sample_record("letter", 0)
