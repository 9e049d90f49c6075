class Share:
    identifier: int
    index: int
    group_threshold: int
    member_threshold: int
    @classmethod
    def from_mnemonic(cls, mnemonic: str) -> Share: ...
